"""`nano-think up` and `down` where something is in the way: one line, and nothing is started."""

import json
import socket

import pytest

from flows import stack, up
from flows.services import Services
from nano_think.core.files import lock


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that `up` takes for a checkout."""
    (tmp_path / "prefect.yaml").write_text("name: nano_think\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(up, "start_all", lambda services, ports: pytest.fail("it started something"))
    return tmp_path


def test_outside_of_a_checkout(say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = say("up")
    assert told.code == 2 and "no prefect.yaml in this folder" in told.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--prefect-port", "--mlflow-port"])
def test_a_taken_port_is_named_with_its_flag(say, checkout, flag):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = say("up", "--prefect-port", 1024, "--mlflow-port", 1025, flag, port)
    assert told.code == 2
    assert f"port {port} is taken" in told.err and flag in told.err
    assert len(told.err.splitlines()) == 1
    assert not (checkout / ".env").exists()


def test_two_ports_are_two(say, checkout):
    told = say("up", "--prefect-port", 1024, "--mlflow-port", 1024)
    assert told.code == 2 and "different" in told.err


def test_after_a_restart_of_the_machine(say, checkout, monkeypatch):
    """What is written down is of processes that are gone: said, and started again."""
    folder = checkout / "artifacts" / ".services"
    folder.mkdir(parents=True)
    gone = {name: {"process": 2**22 + 1, "port": 1} for name in ("prefect", "mlflow", "worker")}
    (folder / "services.json").write_text(json.dumps({"mark": "old", "services": gone}))
    started = []
    monkeypatch.setattr(up, "start_all", lambda services, ports: started.append(ports))
    told = say("up", "--prefect-port", 1024, "--mlflow-port", 1025)
    assert told.code == 0 and started == [{"prefect": 1024, "mlflow": 1025}]
    assert "what was up is gone" in told.err and len(told.err.splitlines()) == 1
    assert (checkout / ".env").is_file()


def test_another_port_for_what_is_up(say, checkout, monkeypatch):
    monkeypatch.setattr(Services, "alive", lambda self, name: name == "prefect")
    folder = checkout / "artifacts" / ".services"
    folder.mkdir(parents=True)
    (folder / "services.json").write_text('{"mark": "x", "services": {"prefect": {"process": 1, "port": 1024}}}')
    told = say("up", "--prefect-port", 1025)
    assert told.code == 2 and "up on port 1024, wanted 1025" in told.err and "nano-think down" in told.err


@pytest.mark.parametrize("verb", ["up", "down"])
def test_another_one_under_way(say, checkout, verb):
    with lock(checkout / "artifacts" / ".services" / "lock", "services"):
        told = say(verb)
    assert told.code == 6 and told.err == (
        "nano-think: error: another up or down is under way in this folder; wait for it to end\n"
    )


def test_down_with_nothing_up(say, checkout):
    (checkout / ".env").write_text("TOKEN=1\n")
    told = say("down")
    assert (told.code, told.out) == (0, "nothing was up\n")
    assert (checkout / ".env").read_text() == "TOKEN=1\n"


def test_no_foreign_page_may_use_the_api(checkout):
    """Neither read it nor change anything by it."""
    environment = stack._environment(4321)
    assert environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4321,http://localhost:4321"


def test_a_live_run_in_a_terminal_is_not_closed(checkout, monkeypatch):
    """Its root is held; another's is not."""
    closed = []
    monkeypatch.setattr(stack, "close_all_dead_runs", lambda: [checkout / "free"])
    monkeypatch.setattr(stack, "end_dead_runs", closed.append)
    stack.ROOT.mkdir()
    with lock(stack.ROOT / ".lock", "the root"):
        stack._end_dead_runs()
    assert closed == [checkout / "free"]
