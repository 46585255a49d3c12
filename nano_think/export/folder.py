"""A trained mixture as a folder that transformers loads, and the proof that it says the same there."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nano_think.core.errors import UsageError, storage
from nano_think.core.files import write_json, write_text
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokenizer_chat import ASSISTANT_END
from nano_think.experts import EXPERTS, kind_of
from nano_think.export.flatten import flattened
from nano_think.models.checkpoint import WEIGHTS, ModelShape
from nano_think.models.think import NanoThink
from nano_think.nn.weights import save_weights

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
TEXTS = ("In the beginning", "def main(argument):\n    return", "The naïve café, 漢字 and 🙂")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the exported model is from ours: largest difference of logits, and whether all ids are the same."""

    logits: float
    same_ids: bool


def write_folder(out: Path, model: NanoThink, shape: ModelShape, source: Path, tokenizer: Tokenizer, card: str) -> None:
    """Write `out`, which must not exist or be empty. `source`: the folder with the tokenizer's files."""
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out}: not empty; choose a folder that does not exist")
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER:
            shutil.copyfile(source / name, out / name)
    end = tokenizer.special[ASSISTANT_END]
    kinds = [EXPERTS[kind_of(name)] for name in shape.experts]
    experts = {kind.__module__: kind.__name__ for kind in kinds}
    for name, text in flattened(experts).items():
        write_text(out / name, text)
    write_json(out / "config.json", _config(shape, end))
    write_json(out / "generation_config.json", _generation(shape, end))
    write_text(out / "README.md", card)
    save_weights(out / WEIGHTS, {f"mixture.{name}": tensor for name, tensor in model.state_dict().items()})


def _config(shape: ModelShape, end: int) -> dict[str, Any]:
    plain = shape.to_dict()
    plain["vocab_size"] = plain.pop("vocabulary")
    return {
        "architectures": ["NanoThinkForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_nano_think.NanoThinkConfig",
            "AutoModelForCausalLM": "modeling_nano_think.NanoThinkForCausalLM",
        },
        "model_type": "nano_think", "bos_token_id": shape.start_token, "eos_token_id": end, "pad_token_id": end,
        "dtype": "float32", "use_cache": False, "tie_word_embeddings": False, **plain,
    }  # fmt: skip


def _generation(shape: ModelShape, end: int) -> dict[str, Any]:
    ends = {"bos_token_id": shape.start_token, "eos_token_id": [end, shape.start_token], "pad_token_id": end}
    return {**ends, "do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "use_cache": False}


@torch.inference_mode()
def compare(out: Path, model: NanoThink, tokenizer: Tokenizer) -> Parity:
    """Load the folder with transformers, and let both models and both tokenizers read a few texts."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError:
        raise UsageError("transformers is not installed; install it with: pip install 'nano_think[hub]'") from None
    exported = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True).eval()
    reading = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    largest, same = 0.0, True
    for text in TEXTS:
        ids = tokenizer.encode(text)
        same &= reading(text, add_special_tokens=False)["input_ids"] == ids
        tokens_1T = torch.tensor([[tokenizer.bos, *ids]])
        difference = exported(tokens_1T).logits - model.logits(model(tokens_1T))
        largest = max(largest, difference.abs().max().item())
    return Parity(logits=largest, same_ids=same)
