"""Chats -> documents in Arrow shards; these and a vocabulary -> rows of token ids."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.config import Config
from nano_think.data.chat import ChatEncoder
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import write_tokens
from nano_think.stages.ingest import Ingest
from nano_think.stages.stage import Context, Inputs, Stage


class Chats(Ingest):
    """Read, clean, deduplicate and split chats, as text is."""

    name = "chats"
    form = "chat"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTokensConfig(Config):
    """Nothing to choose: the vocabulary and the template say it all."""


class ChatTokens(Stage):
    """Encode every split by the chat template."""

    name = "chat_tokens"

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        tokenizer = Tokenizer.load(tokenizer_of(inputs))
        summary = write_tokens(inputs["chats"].path, ChatEncoder(tokenizer), out, threads=os.cpu_count() or 1)
        return summary | {"start_token": tokenizer.bos}


def tokenizer_of(inputs: Inputs) -> Path:
    """The folder of the tokenizer: its own artifact's, or that of the trained model that chats are learned on."""
    return (inputs["tokenizer"] if "tokenizer" in inputs else inputs["base"]).path
