"""A conversation that is cut to the window: what is left out, and how much is read to find that."""

import pytest

from nano_think.core.errors import InputError
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.inference.dialogue import encode_fitting

TEXT = "In the beginning was the word, and the word was with all of them. " * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerConfig(vocab_size=280), iter([TEXT]), folder)
    return Tokenizer.load(folder)


def said(count: int) -> list[dict[str, str]]:
    """A system message, then questions and answers of unequal lengths, a question last."""
    roles = ("user", "assistant")
    talk = [{"role": roles[n % 2], "content": f"{n} the word " * (1 + n % 3)} for n in range(2 * count + 1)]
    return [{"role": "system", "content": "be all of them"}, *talk]


def one_by_one(messages: list[dict[str, str]], tokenizer: Tokenizer, window: int) -> list[int]:
    """The plain way: the oldest goes until the rest fits."""
    left = list(messages)
    while len(ids := tokenizer.encode_chat(left, add_generation_prompt=True)[0]) > window:
        del left[1]
    return ids


@pytest.mark.parametrize("window", [60, 100, 101, 102, 137, 10_000])
def test_no_more_is_left_out_than_has_to_be(tokenizer: Tokenizer, window: int):
    assert encode_fitting(said(9), tokenizer, window) == one_by_one(said(9), tokenizer, window)


def test_what_cannot_fit_is_refused_with_both_numbers(tokenizer: Tokenizer):
    with pytest.raises(InputError, match=r"holds 8 tokens, and the message has \d+"):
        encode_fitting(said(2), tokenizer, 8)


def test_each_text_is_read_once_however_much_is_left_out(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Cutting a long conversation, message by message anew, would stop a server for minutes."""
    read, encode, messages = [], tokenizer.encode, said(200)
    monkeypatch.setattr(tokenizer, "encode", lambda text: read.append(text) or encode(text))
    encode_fitting(messages, tokenizer, 60)
    assert sum(map(len, read)) < 2 * sum(len(message["content"]) for message in messages)
