"""Signals to the command: none is lost."""

import signal
import subprocess
import sys

import pytest

LOST = """
import os, time
from nano_think.cli.signals import Stopped, leave_at_the_second_signal
class Cleared:
    def __del__(self):
        os.kill(os.getpid(), {signum})
        time.sleep(1)
leave_at_the_second_signal()
try:
    Cleared()
    time.sleep(20)
except Stopped as stopped:
    print("felt", stopped.signum)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_comes_while_python_clears_up_is_felt(signum):
    """What is raised in a `__del__` is dropped, and the signal with it."""
    done = subprocess.run(
        [sys.executable, "-c", LOST.format(signum=int(signum))], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["felt", str(int(signum))], "")
