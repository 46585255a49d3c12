"""Programs run apart: what ends well has ended well, and nothing else has."""

import os

import pytest

from nano_think.evaluation.chat.sandbox import runs_well

BAD = {
    "an error": "raise ValueError",
    "no program": "def f(:",
    "leaving early": "import sys; sys.exit(0)",
    "leaving at once": "import os; os._exit(0)",
    "too much memory": "x = bytearray(10**9)",
    "too large a file": "open('f', 'wb').write(bytes(2 * 2**20))",
    "too much to say": "while True: print('x' * 10**5)",
    "standing still": "import time; time.sleep(60)",
    "standing still, deaf": "import signal, time; signal.signal(signal.SIGALRM, signal.SIG_IGN); time.sleep(60)",
}


@pytest.mark.parametrize("program", ["x = 1", "from typing import List\nimport math\nprint('hello')", ""])
def test_a_good_program_runs_well(program: str):
    assert runs_well(program)


@pytest.mark.parametrize("why", BAD)
def test_a_bad_program_does_not(why: str, monkeypatch: pytest.MonkeyPatch):
    assert not runs_well(BAD[why], seconds=1)


def test_it_has_nothing_of_ours(monkeypatch: pytest.MonkeyPatch):
    """No environment, a folder of its own, none of our modules."""
    monkeypatch.setenv("NANO_THINK_SECRET", "x")
    alone = "'NANO_THINK_SECRET' not in os.environ and os.listdir('.') == ['said']"
    assert runs_well(f"import os; assert {alone}")
    assert not runs_well("import nano_think")
    assert "NANO_THINK_SECRET" in os.environ
