"""Bytes that come in pieces, as text: no character is torn, and a stop string ends it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_think.inference.detokenizer import StreamDecoder, TextStream
from tests.tiny import few


@few(80)
@given(
    content=st.one_of(st.binary(max_size=40), st.text(max_size=12).map(str.encode)),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_pieces_join_to_the_whole(content: bytes, cuts: list[int]):
    """However the bytes are cut, the text is that of all of them, and no piece is taken back."""
    decoder, places = StreamDecoder(), [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [decoder.feed(content[low:high]) for low, high in itertools.pairwise(places)]
    assert "".join(pieces) + decoder.end() == content.decode("utf-8", errors="replace")


def test_half_a_character_is_held_back():
    decoder = StreamDecoder()
    assert [decoder.feed(bytes([byte])) for byte in "\U0001f600é".encode()] == ["", "", "", "\U0001f600", "", "é"]
    assert decoder.feed("\U0001f600".encode()[:2]) == "" and decoder.end() == "�"


def cut_plainly(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first, and of those the longest: character by character."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


# Few letters, so that stop strings come often, overlap and begin in vain.
LETTERS = st.text("ab\u00e9\U0001f600", max_size=24)


@few(300)
@given(text=LETTERS, stops=st.lists(st.text("ab\u00e9\U0001f600", min_size=1, max_size=4), max_size=3), data=st.data())
def test_stop_strings_end_the_text_however_it_is_cut(text: str, stops: list[str], data):
    """In bytes of any grouping: the pieces join to the text before the stop, and nothing is taken back."""
    content, stream = text.encode(), TextStream(stops)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    pieces = [stream.feed(content[low:high]) for low, high in itertools.pairwise([0, *cuts, len(content)])]
    pieces.append(stream.end())
    assert "".join(pieces) == cut_plainly(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


@few(200)
@given(text=st.text(), stops=st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_any_text_byte_by_byte(text: str, stops: list[str]):
    stream, content = TextStream(stops), text.encode(errors="replace")
    pieces = [stream.feed(bytes([byte])) for byte in content]
    assert "".join(pieces) + stream.end() == cut_plainly(content.decode(), stops)
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_only_what_may_begin_a_stop_string_is_held_back():
    stream = TextStream(["###", "\n\n"])
    fed = ["ab", "#", "#c", "\n", "d#", "##", "e"]
    assert [stream.feed(piece.encode()) for piece in fed] == ["ab", "", "##c", "", "\nd", "", ""]
    assert stream.stopped and stream.end() == ""


@pytest.mark.parametrize("held", ["#", "##"])
def test_what_was_held_back_in_vain_comes_at_the_end(held: str):
    stream = TextStream(["###"])
    assert stream.feed(f"a{held}".encode()) == "a" and stream.end() == held and not stream.stopped
