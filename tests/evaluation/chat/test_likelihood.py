"""What a row costs does not depend on the rows beside it; what does not count costs nothing."""

import numpy as np
import pytest
import torch

from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.chat import likelihood
from nano_think.evaluation.chat.language import figures, talks
from nano_think.evaluation.chat.likelihood import Row, nats_of
from nano_think.models.chat import Chat
from tests.data.test_chat import documents_of


def rows_of(vocabulary: int, start: int) -> list[Row]:
    dice = np.random.default_rng(0)
    ids = [[start, *dice.integers(0, vocabulary - 5, length).tolist()] for length in (9, 1, 30, 0, 9, 17)]
    return [Row(one, [False, *(dice.random(len(one) - 1) < 0.5).tolist()]) for one in ids]


@pytest.mark.parametrize("room", [1, 40, 8192])
def test_a_batch_is_its_rows(speaker: Chat, words: Tokenizer, room: int, monkeypatch: pytest.MonkeyPatch):
    """Twin: each row by itself, one log-softmax after another."""
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", room)
    rows = rows_of(words.vocab_size, words.bos)
    wanted = []
    with torch.no_grad():
        for ids, counted in rows:
            log_p_TV = speaker.logits(speaker(torch.tensor([ids])))[0].log_softmax(-1)
            wanted.append(-sum(float(log_p_TV[t - 1, ids[t]]) for t in range(1, len(ids)) if counted[t]))
    assert nats_of(speaker, rows) == pytest.approx(wanted, abs=1e-4) and wanted[3] == 0 < wanted[0]


CHATS = [
    [("user", "what"), ("assistant", "the cat"), ("user", "2?"), ("assistant", "é")],
    [("user", "the mat"), ("assistant", "sat")],
]


def chats_of(words: Tokenizer) -> tuple[TokenSet, list[np.ndarray]]:
    rows = [words.encode_chat([{"role": role, "content": text} for role, text in chat]) for chat in CHATS]
    tokens = documents_of([ids for ids, _ in rows], ["a", "b"])
    return tokens, [np.array(mask) for _, mask in rows]


def test_bytes_and_targets_are_those_of_the_assistants_text(words: Tokenizer):
    """With the template's marks and without them: the same bytes, the same ids, no mark among them."""
    tokens, said = chats_of(words)
    for plain in (False, True):
        found = talks(tokens, words, said, window=100, plain=plain)
        assert [(talk.bytes, talk.domain) for talk in found] == [(9, "a"), (3, "b")]
        counted = [[t for t, one in zip(*talk.row, strict=True) if one] for talk in found]
        assert [words.decode(ids) for ids in counted] == ["the caté", "sat"]
    text = words.decode(found[0].row.ids[1:])
    assert text == "what\n\nthe cat\n\n2?\n\né\n\n" and found[0].row.ids[0] == words.bos


def test_a_chat_beyond_the_window_is_cut(words: Tokenizer):
    tokens, said = chats_of(words)
    (talk,) = talks(tokens, words, said, window=6, plain=False)[:1]
    assert len(talk.row.ids) == 7 and talk.bytes < 9


def test_figures_are_bits_over_bytes_and_a_change_has_its_interval(words: Tokenizer):
    tokens, said = chats_of(words)
    found = talks(tokens, words, said, window=100, plain=False)
    nats = {"base": np.array([12.0, 6.0]) * np.log(2), "chat": np.array([6.0, 3.0]) * np.log(2)}
    results = figures(nats, found)
    assert results["models"]["base"]["bits_per_byte"] == pytest.approx(1.5)
    assert results["changes"]["base"]["change"] == pytest.approx(-0.5)
    assert results["changes"]["base"]["interval"] == pytest.approx((-0.5, -0.5))
    assert results["domains"]["b"]["models"]["chat"]["bits_per_byte"] == pytest.approx(1.0)
    assert results["chats"] == 2 and results["bytes"] == 12
