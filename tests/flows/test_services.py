"""Background services: known by their mark, ended with all that came of them, and nothing else with them."""

import os
import subprocess
import sys
import time

import pytest

from flows.services import MARK, Service, Services

# A service that starts a child in a session of its own; both wait.
PARENT = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); {wait}"
)
WAIT = "import time; time.sleep(100)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"


@pytest.fixture
def services(tmp_path):
    """Services of the test's own; nothing of them outlives it."""
    found = Services.open(tmp_path / "services")
    yield found
    found.stop("one", 0)
    found.stop("two", 0)


def start(services, name, child=WAIT):
    """A service with one child; returns once both are there."""
    code = PARENT.format(child=child, wait="time.sleep(100)")
    service = Service(name=name, command=[sys.executable, "-c", code], environment=dict(os.environ))
    services.start(service, services.folder.parent)
    deadline = time.monotonic() + 30
    while len(services.processes(name)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(services.processes(name)) == 2


def test_stop_ends_a_service_with_its_children_and_no_other(services):
    start(services, "one")
    start(services, "two")
    services.stop("one", 5)
    assert not services.processes("one") and not services.alive("one")
    assert len(services.processes("two")) == 2 and services.alive("two")


def test_what_does_not_heed_is_killed(services):
    start(services, "one", child=STUBBORN)
    time.sleep(0.3)
    services.stop("one", 0.5)
    assert not services.processes("one")


def test_what_was_started_is_known_to_the_next_command(services):
    """By what is written down; a child is found after its service was killed."""
    start(services, "one")
    again = Services.open(services.folder)
    assert again.alive("one")
    os.kill(again.known["one"]["process"], 9)
    deadline = time.monotonic() + 10
    while again.alive("one") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not again.alive("one") and len(again.processes("one")) == 1
    again.stop("one", 5)
    assert not again.processes() and not (services.folder / "services.json").exists()


def test_a_number_that_another_program_has_now_is_not_ours(tmp_path):
    """After a restart of the machine a process of another has the number: it is neither alive for us nor stopped."""
    other = subprocess.Popen([sys.executable, "-c", WAIT], env=os.environ | {MARK: "another:one"})
    services = Services(tmp_path, mark="ours", known={"one": {"process": other.pid, "port": 0}})
    try:
        assert not services.alive("one")
        services.stop("one", 1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
