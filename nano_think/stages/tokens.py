"""Documents and a vocabulary -> rows of token ids."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.config import Config
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import write_tokens
from nano_think.stages.stage import Context, Inputs, Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensConfig(Config):
    """Nothing to choose: the vocabulary says it all."""


class Tokens(Stage):
    """Encode every split."""

    name = "tokens"

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        tokenizer = Tokenizer.load(inputs["tokenizer"].path)
        summary = write_tokens(inputs["ingest"].path, tokenizer, out, threads=os.cpu_count() or 1)
        return summary | {"start_token": tokenizer.bos}
