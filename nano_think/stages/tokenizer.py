"""Documents, or the files of GPT-2, -> a byte-pair vocabulary."""

from pathlib import Path
from typing import Any

from nano_think.data.shards import sample_texts
from nano_think.data.tokenizer import TokenizerConfig, adopt_gpt2, train_tokenizer
from nano_think.data.tokenizer_gpt2 import gpt2_digests
from nano_think.stages.stage import Context, Inputs, Stage


class TrainTokenizer(Stage):
    """Learn the vocabulary from the training split alone, or take GPT-2's."""

    name = "tokenizer"
    config: TokenizerConfig

    def fingerprint(self) -> Any:
        return gpt2_digests(self.config.gpt2) if self.config.gpt2 else None

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        if self.config.gpt2:
            return adopt_gpt2(self.config.gpt2, out)
        texts = sample_texts(inputs["ingest"].path, "train", self.config.max_train_bytes)
        return train_tokenizer(self.config, texts, out)
