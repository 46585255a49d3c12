"""A body with a psyche beside a plain one of its size: does it predict text as well, both trained from the beginning?

Metric: bits per byte. Null: a plain body whose inner width makes it at least as large, with the same windows and steps.
What is asked is that the psyche costs nothing: its bits per byte over the plain body's, at most 0.3%.
"""

from dataclasses import replace
from typing import Any

from component_ways.ground import Ground, bits_per_byte, teach, text_windows
from nano_think.core.config import to_dict
from nano_think.experts import count_parameters
from nano_think.models.chat import Chat, ChatShape, build_chat
from nano_think.models.embedder import load_head
from nano_think.parts.psyche import PsycheConfig
from nano_think.stages.sft import give_parts
from nano_think.training.loop import seed_everything


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    whole = begin(ground, seed, 0)
    give_parts(whole, shape_of(ground, 0), {"psyche": to_dict(PsycheConfig())}, ground.tokenizer())
    plain = next(model for more in range(10**6) if size(model := begin(ground, seed, more)) >= size(whole))
    documents = ground.documents("test", 20_000)
    rates, flops = {}, {}
    for name, model in {"whole": whole, "plain": plain}.items():
        flops[name] = teach(model, text_windows(ground, seed), tokens, seed, rate=1.0)
        rates[name] = bits_per_byte(model, documents, ground.window)
    return {
        "metric": "bits per byte from the beginning, with a psyche", "better": "lower", "value": rates["whole"],
        "null": "a plain body of its size", "null_value": rates["plain"],
        "parameters": size(whole) / size(plain) - 1, "flops": flops["whole"] / flops["plain"] - 1,
        "bits_per_byte": rates["whole"] / rates["plain"] - 1, "asks_for_no_gain": True,
        "more": {"sizes": [size(whole), size(plain)]},
    }  # fmt: skip


def begin(ground: Ground, seed: int, more: int) -> Chat:
    """A body that has learned nothing, so much wider inside than the preset's."""
    seed_everything(seed)
    return build_chat(shape_of(ground, more), load_head(ground.artifacts["embedding"].path))


def shape_of(ground: Ground, more: int) -> ChatShape:
    config, tokenizer = ground.config, ground.tokenizer()
    return ChatShape(
        width=config.space.width, vocabulary=tokenizer.vocab_size, window=ground.window, start_token=tokenizer.bos,
        backbone=replace(config.backbone, inner=config.backbone.inner + more),
    )  # fmt: skip


def size(model: Chat) -> int:
    return count_parameters(model)
