"""The artifact of a tiny chat model, as a training leaves one, for the commands that open models by their folder."""

from pathlib import Path

from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.models.chat import Chat, ChatShape, build_chat
from nano_think.models.checkpoint import save_model
from nano_think.parts import PARTS
from nano_think.stages.artifact import Artifact, seal, write_latest
from tests.perturbation import randomise_zeros
from tests.tiny import WIDTH, tiny_config

TEXT = "In the beginning was the word, and the word was with all of them. 1 + 2 = 3. " * 20


def write_chat_model(root: Path, *parts: str, window: int = 64) -> Artifact:
    """A chat model with some parts and nothing left at zero, under a root, where it is the newest."""
    folder = root / "sft" / "0123"
    folder.mkdir(parents=True)
    train_tokenizer(TokenizerConfig(vocab_size=280), iter([TEXT]), folder)
    tokenizer = Tokenizer.load(folder)
    shape = ChatShape(
        width=WIDTH, vocabulary=tokenizer.vocab_size, window=window, start_token=tokenizer.bos,
        backbone=tiny_config("transformer"), parts={name: PARTS[name].Config() for name in PARTS if name in parts},
    )  # type: ignore # fmt: skip
    save_model(folder, filled(build_chat(shape), tokenizer), shape)
    found = seal(folder, "sft", "0123", {"summary": {}, "inputs": {}})
    write_latest(root, {"sft": found}, "chat-latest.json")
    return found


def filled(model: Chat, tokenizer: Tokenizer) -> Chat:
    """The model with random numbers in place of zeros, its table's among them, and parts that know the vocabulary."""
    randomise_zeros(model)
    model.head.table.normal_()
    for part in model.parts.values():
        part.study([tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)], model.head)  # type: ignore
    return model.eval()
