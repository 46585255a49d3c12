"""A tokenizer of a few hundred words and a tiny model over them, both made in the process."""

import pytest
import torch

from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.experts import build_expert
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.chat import Chat
from tests.perturbation import randomise_zeros
from tests.tiny import WIDTH, tiny_config

TEXT = "what is the sum of 1 and 2? the cat sat on the mat; correct the spelling of this word: recieve receive "


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("words")
    train_tokenizer(TokenizerConfig(vocab_size=300), iter([TEXT] * 50), out)
    return Tokenizer.load(out)


@pytest.fixture
def speaker(words: Tokenizer) -> Chat:
    """It says something, and not always the same."""
    torch.manual_seed(3)
    table_VD = normalise_table(torch.randn(words.vocab_size, WIDTH))
    backbone = randomise_zeros(build_expert("transformer", tiny_config("transformer"), WIDTH))
    return Chat(LanguageHead(table_VD, torch.zeros(words.vocab_size)), backbone, words.bos).eval()  # type: ignore
