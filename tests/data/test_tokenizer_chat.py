"""Chats: the ids that transformers gives, a mask of what the assistant says, no control token from what is typed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_think.core.errors import InputError
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokenizer_file import SPECIALS

TALK = [("system", "Be brief."), ("user", "hi"), ("assistant", "yo"), ("user", "why")]
NAMES = (*SPECIALS, "<|endoftext|>")


def messages(talk: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in talk]


@pytest.fixture(scope="module")
def auto(tokenizer_folder: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tokenizer_folder)


def talks(content: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    said = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), content), max_size=6)
    return said.map(lambda talk: [*talk, ("user", "so?")])


def test_the_template_tells_who_speaks(auto: Any) -> None:
    assert auto.apply_chat_template(messages(TALK), tokenize=False, add_generation_prompt=True) == (
        "<|bos|><|user_start|>Be brief.\n\nhi<|user_end|><|assistant_start|>yo<|assistant_end|>"
        "<|user_start|>why<|user_end|><|assistant_start|>"
    )


def test_the_mask_is_what_the_assistant_says(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode_chat(messages(TALK), add_generation_prompt=True)
    assert len(ids) == len(mask)
    assert tokenizer.decode([token for token, said in zip(ids, mask, strict=True) if said]) == "yo<|assistant_end|>"
    assert (ids[0], ids[-1]) == (tokenizer.bos, tokenizer.special["<|assistant_start|>"])
    assert tokenizer.encode_chat([]) == ([tokenizer.bos], [False])


@settings(max_examples=150, deadline=None)
@given(talk=talks(st.text(max_size=30).filter(lambda text: "<|" not in text)), more=st.booleans())
def test_chats_have_the_ids_of_the_template(
    tokenizer: Tokenizer, auto: Any, talk: list[tuple[str, str]], more: bool
) -> None:
    ids, mask = tokenizer.encode_chat(messages(talk), add_generation_prompt=more)
    theirs = auto.apply_chat_template(
        messages(talk), add_generation_prompt=more, return_assistant_tokens_mask=True, return_dict=True
    )
    assert (ids, mask) == (theirs["input_ids"], [bool(one) for one in theirs["assistant_masks"]])


@settings(max_examples=150, deadline=None)
@given(talk=talks(st.lists(st.sampled_from([*NAMES, "<|", "|>", "bos", "user_end", "x", " "])).map("".join)))
def test_typed_special_tokens_never_control(tokenizer: Tokenizer, auto: Any, talk: list[tuple[str, str]]) -> None:
    """With the template too, where a zero-width space is all that keeps them apart."""
    ids, _ = tokenizer.encode_chat(messages(talk))
    theirs = auto.apply_chat_template(messages(talk))["input_ids"]
    control = [token for token in ids if token in tokenizer.special.values()]
    assert control == [token for token in theirs if token in tokenizer.special.values()]
    assert len(control) == 1 + sum(2 for role, _ in talk if role != "system")
    said = [content for role, content in talk if role == "assistant"]
    assert all(content in tokenizer.decode(ids) for content in said)
    assert tokenizer.decode(theirs).replace("\u200b", "") == tokenizer.decode(ids)


def test_typed_special_tokens_elsewhere_are_the_callers_choice(tokenizer: Tokenizer, auto: Any) -> None:
    """No file can tell transformers to take them as text in a string and as tokens from the template."""
    typed = "".join(SPECIALS)
    assert auto(typed)["input_ids"] == list(tokenizer.special.values())
    assert auto(typed, split_special_tokens=True)["input_ids"] == tokenizer.encode(typed)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}], "message 2: wanted the role .*'tool'"),
        ([{"content": "x"}], "message 1: wanted the role system, user or assistant, got None"),
        ([{"role": "user", "content": None}], "message 1: wanted a content that is text, got NoneType"),
        ([{"role": "system", "content": "x"}], "a system message opens a user message, and none follows"),
    ],
)
def test_a_chat_that_is_none_is_refused(tokenizer: Tokenizer, auto: Any, given: list[Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        tokenizer.encode_chat(given)
    with pytest.raises(Exception, match=r"wanted system, user|none follows|no attribute"):
        auto.apply_chat_template(given)
