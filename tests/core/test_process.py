"""Child processes: heard line by line, named when they die, never left behind. No torch here: the children are tiny."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from nano_think.core import errors, process
from nano_think.core.process import accelerate_command, child_environment, run_child


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A short grace, and no memory of an earlier `stop_all`."""
    monkeypatch.setattr(process, "GRACE_SECONDS", 2.0)
    process.allow_again()
    yield
    process.stop_all()
    process.allow_again()


START = "from nano_think.core.process import *\nimport os, signal, sys, time\n"


@pytest.fixture
def child(tmp_path):
    """child(code) runs Python code as a child and returns the events that it told."""

    def run(code, name="toy", log=None):
        file = tmp_path / "child.py"
        file.write_text("from nano_think.core.process import *\nimport os, signal, sys, time\n" + textwrap.dedent(code))
        told = []
        run_child(name, [sys.executable, str(file)], child_environment(1, {}), log or told.append)
        return told

    return run


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, seconds):
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_events_are_heard_in_order(child):
    """Lines of JSON become events; other words are no events."""
    told = child("""
        emit({"event": "a", "n": 1}); print("hello"); print('{"event": torn'); emit({"event": "b", "x": float("nan")})
    """)
    assert [event["event"] for event in told] == ["a", "b"]


def test_events_are_heard_at_once(child, tmp_path):
    """A child that still works has already been heard: it goes on when it was."""
    heard = tmp_path / "heard"
    code = f"""
        import pathlib
        emit({{"event": "a"}})
        for _ in range(3000):
            if pathlib.Path({str(heard)!r}).exists():
                break
            time.sleep(0.02)
        else:
            sys.exit(1)
    """
    child(code, log=lambda event: heard.touch())
    assert heard.exists()


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 7, 8])
def test_error_of_a_child_is_the_same_error_here(child, code):
    """The kind of error crosses the process border with its message, and names the training."""
    kind = errors.BY_EXIT_CODE[code]
    with pytest.raises(kind, match="toy: it went wrong") as caught:
        child(f'emit({{"event": "error", "code": {code}, "message": "it went wrong"}}); sys.exit({code})')
    assert type(caught.value) is kind


def test_launcher_that_leaves_with_1_hides_no_error(child):
    """Accelerate's launcher turns every code into 1 and prints a traceback: the event counts."""
    with pytest.raises(errors.DivergedError, match="toy: no finite loss"):
        child('emit({"event": "error", "code": 7, "message": "no finite loss"}); print("Traceback ..."); sys.exit(1)')


def test_child_that_fails_without_a_word_is_named(child):
    """Its exit code is told."""
    with pytest.raises(errors.ChildError, match="toy: its process ended with exit code 9: it said nothing"):
        child("sys.exit(9)")


def test_last_words_of_a_child_are_told(child):
    """A traceback's last line says what it was."""
    with pytest.raises(errors.ChildError, match=r"toy: .*ZeroDivisionError: division by zero"):
        child("1 / 0")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda number: number.name)
def test_killed_child_is_named_with_its_signal(child, number):
    """A child that was killed says nothing itself."""
    with pytest.raises(errors.ChildError, match=f"toy: its process was killed by {number.name}") as caught:
        child(f"os.kill(os.getpid(), {int(number)})")
    assert ("out of memory?" in str(caught.value)) == (number == signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_signal_is_found_in_the_launchers_last_words(child, number):
    """With a launcher between us the signal is only in the words of its traceback."""
    with pytest.raises(errors.ChildError, match=f"killed by {number.name}"):
        child(f"""
            import subprocess
            subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), {int(number)})"], check=True)
        """)


def test_killed_rank_counts_more_than_what_its_peers_say(child):
    """Of several processes the one that was killed is the cause; the others fail because it is gone."""
    with pytest.raises(errors.ChildError, match="toy: its process was killed by SIGKILL"):
        child("""
            emit({"event": "error", "code": 1, "message": "RuntimeError: Connection closed by peer"})
            print("[1]:\\n  exitcode  : -15 (pid: 1)  (SIGTERM)")
            print("Root Cause (first observed failure):\\n[0]:\\n  exitcode  : -9 (pid: 2)  (SIGKILL)")
            sys.exit(1)
        """)


def test_first_of_several_errors_is_told(child):
    """The later ones are its consequences."""
    with pytest.raises(errors.StorageError, match="toy: no space"):
        child("""
            emit({"event": "error", "code": 5, "message": "no space"})
            emit({"event": "error", "code": 1, "message": "RuntimeError: Connection closed by peer"})
            sys.exit(1)
        """)


def test_output_that_is_not_utf8_is_no_trouble(child):
    """Bytes of any kind may be in what a library prints."""
    assert child(r'sys.stdout.buffer.write(b"\xff\xfe\n"); sys.stdout.flush(); emit({"event": "a"})') == [
        {"event": "a"}
    ]


def test_error_while_listening_ends_the_child(child, tmp_path):
    """When the listener fails, its child does not live on."""

    def fail(event):
        (tmp_path / "pid").write_text(str(event["pid"]))
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        child('emit({"event": "a", "pid": os.getpid()}); time.sleep(60)', log=fail)
    assert gone(int((tmp_path / "pid").read_text()), 1)


def in_thread(child, code):
    """Start `child(code)` in a thread; returns it, its events, and a list that holds the error in the end."""
    told, ended = [], []

    def run():
        try:
            child(code, log=told.append)
        except errors.NanoThinkError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told, "the child never spoke"
    return thread, told, ended


SAVER = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("yes")
    os._exit(143)
signal.signal(signal.SIGTERM, save)
print('{"event": "a", "pid": %d}' % os.getpid(), flush=True)
time.sleep(60)
"""


def test_stop_all_lets_children_save(child, tmp_path, monkeypatch):
    """A child that takes a moment to save has it, though its launcher dies at once; no longer than that is waited."""
    monkeypatch.setattr(process, "GRACE_SECONDS", 100)
    (tmp_path / "saver.py").write_text(SAVER)
    code = f"""
        import subprocess
        subprocess.run([sys.executable, {str(tmp_path / "saver.py")!r}, {str(tmp_path / "saved")!r}], check=True)
    """
    thread, told, ended = in_thread(child, code)
    started = time.monotonic()
    process.stop_all()
    assert (tmp_path / "saved").read_text() == "yes"
    assert time.monotonic() - started < 60
    thread.join(60)
    assert isinstance(ended[0], errors.Interrupted)
    assert gone(told[0]["pid"], 30)


def test_stop_all_makes_the_stubborn_go(child):
    """A child that will not end is ended after the grace, with its own children."""
    code = """
        import subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        emit({"event": "a", "pid": os.getpid(), "grandchild": grandchild.pid})
        time.sleep(60)
    """
    thread, told, ended = in_thread(child, code)
    process.stop_all()
    thread.join(60)
    assert gone(told[0]["pid"], 30) and gone(told[0]["grandchild"], 30)
    assert isinstance(ended[0], errors.Interrupted)


def test_no_child_is_started_after_stop_all(child):
    """A stage that comes late does not start what nobody would end."""
    process.stop_all()
    with pytest.raises(errors.Interrupted):
        child('emit({"event": "a"})')
    process.allow_again()
    assert child('emit({"event": "a"})')


PARENT = """
import subprocess, sys, os
from nano_think.core.process import run_child, child_environment
def tell(event):
    print(event["pid"], flush=True)
run_child("toy", [sys.executable, "-c", sys.argv[1]], child_environment(1, {}), tell)
"""
DIRECT = """
import os, time
from nano_think.core.process import die_with_parent, emit
die_with_parent()
emit({"event": "a", "pid": os.getpid()})
time.sleep(60)
"""
LAUNCHED = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DIRECT!r}], check=True)"


@pytest.mark.parametrize("code", [DIRECT, LAUNCHED], ids=["direct", "launched"])
def test_kill_of_the_parent_leaves_no_child(code):
    """kill -9 of the parent cannot be caught; the child notices within seconds."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid, 30)


def test_kill_of_the_launcher_ends_the_training(child):
    """A launcher that is killed leaves no training behind that nobody listens to."""
    code = f"""
        import subprocess
        emit({{"event": "launcher", "pid": os.getpid()}})
        subprocess.run([sys.executable, "-c", {DIRECT!r}])
    """
    thread, told, ended = in_thread(child, code)
    deadline = time.monotonic() + 20
    while len(told) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(told[0]["pid"], signal.SIGKILL)
    thread.join(60)
    assert gone(told[1]["pid"], 30)
    assert "killed by SIGKILL" in str(ended[0])


def test_launch_says_everything_that_accelerate_would_warn_about():
    """One process unless more are asked for, no port of its own, our Python."""
    command = accelerate_command("nano_think.stages.worker", "folder")
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[-3:] == ["-m", "nano_think.stages.worker", "folder"]
    assert command[command.index("--num_processes") + 1] == "1" and "--multi_gpu" not in command
    command = accelerate_command("nano_think.stages.worker", "folder", processes=3)
    assert command[command.index("--num_processes") + 1] == "3" and "--multi_gpu" in command


def test_environment_of_a_child_has_its_threads_and_finds_this_code(monkeypatch):
    """Thread counts for every library, this checkout first, and what the tracker wants."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = child_environment(3, {"A": "b"})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["PYTHONPATH"].endswith(f"{os.pathsep}/elsewhere")
    assert environment["A"] == "b" and environment["PYTHONUNBUFFERED"] == "1"


def test_training_keeps_its_memory_unless_the_user_says_otherwise(monkeypatch):
    """The last of two settings counts for glibc: what the user has set comes behind ours."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert process.training_environment(1, {})["GLIBC_TUNABLES"] == process.KEEP_MEMORY
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    said = process.training_environment(2, {"A": "b"})
    assert said["GLIBC_TUNABLES"].endswith(":glibc.malloc.hugetlb=0")
    assert (said["OMP_NUM_THREADS"], said["A"]) == ("2", "b")
