"""A conversation with a chat model: in the terminal, by the API and on the page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.checkout import ROOT
from tests.conftest import Commands
from tests.serving.browser import CHROMIUM, Browser

pytestmark = pytest.mark.slow
# A folder to keep the picture in: docs/images shows such a one.
PICTURES = os.environ.get("NANO_THINK_PICTURES")
# Another finished chat model to be looked at instead: the root that it is the newest of.
LOOK_AT = os.environ.get("NANO_THINK_CHAT_ROOT")
TYPED = (
    "Hello!", "/temp 0", "/reset", "What is 7 + 5?", "/save once.json", "/reset", "What is 7 + 5?", "/save again.json",
    "/quit",
)  # fmt: skip


def test_in_the_terminal(chat_run, tmp_path: Path):
    """By the second design's script; a setting holds from the next turn on, and one stream needs no bar."""
    script = [sys.executable, ROOT / "scripts" / "chat_cli.py", "--checkpoint", "latest", "--root", chat_run[0]]
    words = ["--memory", "off", "--max-new-tokens", "8"]
    done = subprocess.run(
        [*script, *words], input="\n".join(TYPED), capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("2 messages in again.json\n") and "transformer" not in done.stdout
    once, again = (json.loads((tmp_path / name).read_text())["messages"] for name in ("once.json", "again.json"))
    assert [one["role"] for one in once] == ["user", "assistant"] and once[0]["content"] == "What is 7 + 5?"
    assert once == again


@pytest.fixture(scope="module")
def served(request, tmp_path_factory):
    """The address of a server of the chat model."""
    root = LOOK_AT or request.getfixturevalue("chat_run")[0]
    command = Commands(tmp_path_factory.mktemp("serve"))
    process = command.start("serve", "--model", "chat-latest", "--root", root, "--port", 0, "--memory", "off")
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), process.stderr.read()
        yield line.split()[-1]
    finally:
        command.kill_all()
        process.communicate(timeout=60)


def ask(served: str, **settings: object) -> str:
    """What is answered, of at most as many tokens as were asked for."""
    asked = {"model": "nano_think", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 12}
    asked |= settings
    told = httpx.post(served + "v1/chat/completions", json=asked, timeout=300, trust_env=False)
    assert told.status_code == 200, told.text
    assert 0 < told.json()["usage"]["completion_tokens"] <= asked["max_tokens"]
    return told.json()["choices"][0]["message"]["content"]


def test_settings_are_the_requests_own(served):
    """The likeliest answer is always the same; drawn freely, seeds differ, and each gives its own text again."""
    assert ask(served, temperature=0) == ask(served, temperature=0, seed=5)
    drawn = [ask(served, temperature=1.5, seed=seed) for seed in (1, 2, 3, 1)]
    assert drawn[0] == drawn[3] and len(set(drawn)) > 1
    ask(served, temperature=1.5, seed=1, max_tokens=2)


def test_on_the_page(served, tmp_path: Path):
    """Two turns in a real browser; one stream needs no tints, and nothing is said in the console."""
    if not CHROMIUM:
        pytest.skip("needs chromium")
    browser = Browser(tmp_path)
    try:
        browser.size(1100, 720, scale=2)
        browser.open(served)
        browser.until("document.querySelector('#model').textContent.includes('tokens of context')")
        for turn, words in enumerate(("Hello!", "Tell me a joke"), 1):
            browser.click("#words")
            browser.type(words)
            browser.press("Enter")
            browser.until(f"!!document.querySelectorAll('.answer')[{turn - 1}]?.querySelector('.regenerate')")
        assert browser.count(".user") == browser.count(".answer") == 2 and browser.text(".answer .text")
        assert browser.count("#legend .sample, .answer .bar, .answer table") == 0
        assert browser.complaints == []
        if PICTURES:
            browser.picture(Path(PICTURES) / "chat-model.png")
    finally:
        browser.close()
