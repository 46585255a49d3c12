"""The page in a real browser: it talks, stops, answers again, edits, forgets, and runs nothing that anybody says."""

import re
from pathlib import Path

import pytest

from nano_think.memory.namespaces import Namespaces
from nano_think.serving.app import PAGE
from nano_think.serving.recall import Recall
from tests.serving.browser import CHROMIUM, Browser
from tests.serving.conftest import until
from tests.serving.test_memory import OWNER, remember

RUN = "document.title='run'"
HOSTILE = f'<img src=x onerror="{RUN}"><script>{RUN}</script>[a](javascript:{RUN}) \x1b[31m'
SINKS = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", "DOMParser", "srcdoc")


def test_nothing_turns_text_into_markup():
    for script in PAGE.glob("*.js"):
        assert not [sink for sink in SINKS if sink in script.read_text(encoding="utf-8")], script.name


def test_page_needs_nothing_from_elsewhere_and_holds_no_inline_code():
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), file.name
    markup = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", markup)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("needs chromium")
    tab = Browser(tmp_path_factory.mktemp("chromium"))
    yield tab
    tab.close()


@pytest.fixture
def page(browser, serving, tmp_path, tokenizer):
    """A tab with the page of a server whose engine says `words`; the console has said nothing in the end."""
    memories = Namespaces(tmp_path, OWNER)

    def open_page(**script):
        server = serving(**{"recall": Recall(memories, tokenizer), "window": 4000} | script)
        browser.complaints.clear()
        browser.open(server.url)
        browser.until("document.querySelectorAll('#legend .sample').length === 3")
        return server

    open_page.memories = memories
    yield open_page
    assert browser.run("document.title") == "nano_think"
    assert browser.complaints == []
    memories.close()


def say(browser, text):
    browser.click("#words")
    browser.type(text)
    browser.press("Enter")


def finished(browser, answers=1):
    return browser.until(f"document.querySelectorAll('.answer .bar').length === {answers}")


pytestmark = pytest.mark.slow


def test_it_answers_and_tints_every_token(browser, page):
    server = page()
    say(browser, "the word")
    finished(browser)
    assert browser.text(".user .text") == "the word"
    assert browser.text(".answer .text") == " the word" * 60
    assert browser.count(".answer .token.e0") == 120
    assert server.engine.asked[0].max_new_tokens == 120
    assert browser.text("#status") == "Answer finished."


def test_weights_are_a_table_too(browser, page):
    page()
    say(browser, "the word")
    finished(browser)
    browser.click(".answer summary")
    browser.until("document.querySelectorAll('.answer table').length === 1")
    assert browser.text(".answer thead tr") == "tokenonetwothree"
    assert browser.text(".answer tbody tr") == "␣the50%30%20%"
    assert "one 50%, two 30%, three 20%" in browser.run("document.querySelector('.bar').getAttribute('aria-label')")


def test_sliders_steer_where_there_is_a_psyche(browser, page):
    server = page(dials=("id", "ego", "superego"))
    browser.until("!document.querySelector('#psyche').hidden")
    browser.run(
        "const slider = document.querySelector('[name=psyche_superego]');"
        "slider.value = '4'; slider.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    say(browser, "the word")
    finished(browser)
    assert server.engine.asked[0].psyche == {"id": 0.0, "ego": 0.0, "superego": 4.0}
    names = "[...document.querySelectorAll('#psyche .dial span')].map((one) => one.textContent)"
    assert browser.run(names) == ["id", "ego", "superego"]


def test_a_slider_tells_how_far_it_is_turned(browser, page):
    """By keys alone, and what was turned stays so when the page is opened anew."""
    server = page(dials=("superego",))
    browser.click("#open-settings")
    browser.run("const slider = document.querySelector('[name=psyche_superego]'); slider.value = '0'; slider.focus()")
    for _ in range(3):
        browser.press("ArrowLeft")
    assert browser.text(".dial output") == "−1.5"
    browser.press("Escape")
    browser.open(server.url)
    browser.until("document.querySelectorAll('.dial').length === 1")
    assert browser.text(".dial output") == "−1.5"
    browser.run("localStorage.clear()")


def test_an_answer_tells_its_energy(browser, page):
    page(energy=lambda request: 0.125)
    say(browser, "the word")
    finished(browser)
    assert browser.text(".answer .figures") == "energy 0.13"


def test_there_are_no_sliders_where_there_is_no_psyche(browser, page):
    server = page()
    say(browser, "the word")
    finished(browser)
    assert browser.run("document.querySelector('#psyche').hidden") and server.engine.asked[0].psyche == {}
    assert browser.count(".dial") == 0 and browser.count(".answer .figures") == 0


def test_stop_ends_the_answer_and_keeps_what_was_said(browser, page):
    server = page(pace=0.05)
    say(browser, "the word")
    browser.until("document.querySelectorAll('.answer .token').length > 2")
    browser.click("#stop")
    finished(browser)
    assert 2 < browser.count(".answer .token") < 119
    assert browser.text(".answer .actions .quiet") == "stopped"
    assert browser.until("!document.querySelector('#send').hidden")
    assert until(lambda: server.engine.cancelled)


def test_escape_stops(browser, page):
    server = page(pace=0.05)
    say(browser, "the word")
    browser.until("document.querySelectorAll('.answer .token').length > 2")
    browser.press("Escape")
    finished(browser)
    assert until(lambda: server.engine.cancelled)


def test_regenerate_answers_again(browser, page):
    server = page()
    say(browser, "the word")
    finished(browser)
    browser.click(".regenerate")
    browser.until("document.querySelector('#status').textContent === 'Answer finished.'")
    finished(browser)
    first, second = server.engine.asked
    assert first.prompt == second.prompt and first.sampling.seed != second.sampling.seed


def test_edit_asks_anew_from_there(browser, page):
    server = page()
    say(browser, "the word")
    finished(browser)
    say(browser, "in the beginning")
    finished(browser, 2)
    browser.click(".user .edit")
    assert browser.count("#log li") == 0
    assert browser.run("document.querySelector('#words').value") == "the word"
    browser.type(" was")
    browser.press("Enter")
    finished(browser)
    assert "<|user_start|>the word was<|user_end|>" in server.engine.tokenizer.decode(server.engine.asked[-1].prompt)


def test_shift_and_enter_begin_a_line(browser, page):
    server = page()
    browser.click("#words")
    browser.type("the")
    browser.press("Enter", shift=True)
    browser.type("word")
    browser.press("Enter")
    finished(browser)
    assert "the\nword" in server.engine.tokenizer.decode(server.engine.asked[0].prompt)


def test_keys_alone_are_enough(browser, page):
    """From the first field by Tab to every control, which shows where it is."""
    page()
    reached = {}
    for _ in range(12):
        browser.press("Tab")
        style = "getComputedStyle(document.activeElement).outlineStyle"
        reached[browser.run("document.activeElement.id")] = browser.run(style)
    wanted = ("new", "open-memory", "open-settings", "send")
    assert {name: reached.get(name) for name in wanted} == dict.fromkeys(wanted, "solid")
    assert "words" in reached


def test_the_page_asks_for_no_more_memory_than_the_server_gives(browser, page):
    """And says where something could not be remembered."""
    server = page(memory="read", namespace="office")
    server.engine.amiss = "no space left"
    say(browser, "the word")
    finished(browser)
    assert [(one.memory, one.namespace) for one in server.engine.asked] == [("read", "office")]
    assert "this turn is not remembered" in browser.text("#alert")
    browser.click("#open-settings")
    options = "[...document.querySelector('[name=memory]').options].map((one) => [one.value, one.disabled])"
    assert browser.run(options) == [["", False], ["off", False], ["read", False], ["read-write", True]]
    browser.press("Escape")
    browser.click("#open-memory")
    browser.until("document.getElementById('memory-name').textContent === 'office'")
    browser.press("Escape")


def test_a_text_goes_on_behind_what_was_said_before(browser, page):
    """Which is read and belongs to no turn of its own."""
    server = page()
    browser.run("const mode = document.querySelector('[name=mode]'); mode.value = 'text'; "
                "mode.dispatchEvent(new Event('change', {bubbles: true}))")  # fmt: skip
    say(browser, "the word")
    finished(browser)
    say(browser, " and the word")
    finished(browser, 2)
    browser.run("mode.value = 'chat'; mode.dispatchEvent(new Event('change', {bubbles: true}))")
    first, second = server.engine.asked
    decode = server.engine.tokenizer.decode
    assert first.turn == 0 and decode(second.prompt[second.turn :]) == " and the word"
    assert decode(second.prompt[: second.turn]) == "<|bos|>the word" + " the word" * 60


def test_a_memory_entry_is_erased(browser, page, tokenizer):
    page()
    remember(page.memories, tokenizer, text="in the beginning")
    remember(page.memories, tokenizer)
    browser.click("#open-memory")
    browser.until("document.querySelectorAll('#documents li').length === 2")
    browser.click("#documents li:first-child .erase")
    browser.until("document.querySelectorAll('#documents li').length === 1")
    assert "in the beginning" in browser.text("#documents")
    browser.click("#forget-all")
    assert browser.count("#documents li") == 1
    browser.click("#forget-all")
    browser.until("document.querySelectorAll('#documents li').length === 0")
    browser.press("Escape")


def test_nothing_that_is_said_is_run(browser, page, tokenizer):
    """From the model, the user and the memory, and in an error."""
    page(words=HOSTILE)
    remember(page.memories, tokenizer, text=HOSTILE)
    say(browser, HOSTILE)
    finished(browser)
    browser.click(".answer summary")
    browser.until("document.querySelectorAll('.answer table').length === 1")
    browser.click("#open-memory")
    browser.until("document.querySelectorAll('#documents li').length === 1")
    assert HOSTILE.strip() in browser.text("#documents .text")
    assert "<script>" in browser.text(".answer .text")
    assert browser.count("main img, main a, dialog img, main script, dialog script, dialog a") == 0
    browser.press("Escape")


def test_an_error_is_told(browser, page):
    server = page()
    server.engine.submit = refuse
    say(browser, "the word")
    browser.until("document.querySelector('#alert').textContent !== ''")
    assert browser.text("#alert") == "<b>no</b>"
    browser.complaints[:] = [one for one in browser.complaints if "503" not in str(one)]


def refuse(_):
    from nano_think.core.errors import UsageError

    raise UsageError("<b>no</b>")


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_it_fits(browser, page, width):
    """Nothing is wider than the window, on a phone either."""
    page()
    browser.size(width, 800)
    say(browser, "the word " * 30 + "x" * 200)
    finished(browser)
    assert browser.run("document.scrollingElement.scrollWidth") <= width
    browser.tell("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_on_every_tint(browser, page, dark):
    """WCAG's contrast of at least 4.5 between the text and the strongest tint, light and dark."""
    page()
    browser.size(1100, 800, dark=dark)
    script = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
    assert min(browser.run(script)) >= 4.5
    browser.tell("Emulation.clearDeviceMetricsOverride")
