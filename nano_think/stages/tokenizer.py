"""Documents -> a byte-pair vocabulary."""

from pathlib import Path
from typing import Any

from nano_think.data.shards import sample_texts
from nano_think.data.tokenizer import TokenizerConfig, train_tokenizer
from nano_think.stages.stage import Context, Inputs, Stage


class TrainTokenizer(Stage):
    """Learn the vocabulary from the training split alone."""

    name = "tokenizer"
    config: TokenizerConfig

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        texts = sample_texts(inputs["ingest"].path, "train", self.config.max_train_bytes)
        return train_tokenizer(self.config, texts, out)
