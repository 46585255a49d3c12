"""The compared models, with random weights.

R rows, T tokens
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.inference.remembering import Memories
from nano_think.memory.conversation import Conversations
from nano_think.memory.entries import Entries
from nano_think.memory.journal import Owner
from nano_think.memory.read import Gate
from nano_think.memory.store import VectorStore
from nano_think.models.checkpoint import ModelShape, build_mixture
from nano_think.models.think import Cache, NanoThink, Routed
from nano_think.nn.cache import Rows, Timeline
from nano_think.stages.pipeline import load

START = 0


def build_shape(preset: str, vocabulary: int) -> ModelShape:
    """The preset's mixture with another vocabulary."""
    config = load(preset)
    experts = {name: getattr(config.experts, name) for name in config.members}
    return ModelShape(
        width=config.space.width, vocabulary=vocabulary, window=config.space.window, start_token=START,
        router=config.router.model, experts=experts,
    )  # fmt: skip


def randomise(model: torch.nn.Module) -> None:
    """Nothing is left at zero, and nothing grows."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)


def build_model(shape: ModelShape) -> NanoThink:
    """The mixture; it never ends a text."""
    torch.manual_seed(0)
    head = LanguageHead(normalise_table(torch.randn(shape.vocabulary, shape.width)), torch.zeros(shape.vocabulary))
    model = build_mixture(shape, head).eval()
    randomise(model)
    model.head.bias[START] = -1e9
    return model


def build_llama(shape: ModelShape) -> LlamaForCausalLM:
    """Hugging Face's Llama of the transformer expert's shape."""
    ours = shape.experts["transformer"]
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=ours.inner,
        num_hidden_layers=ours.n_layers, num_attention_heads=ours.n_heads, max_position_embeddings=shape.window,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def build_memories(folder: Path, key_SD: np.ndarray, vocabulary: int) -> Memories:
    """A store of these keys, and an empty memory of conversations; they count a little."""
    entries, width = key_SD.shape
    store = VectorStore(Entries.of(key_SD, np.random.default_rng(1).integers(1, vocabulary, entries)))
    said = Conversations(folder, Owner(model="benchmark", tokenizer="benchmark", width=width), write=True)
    return Memories(conversations=lambda namespace, write: said, store=store, gate=Gate(share=0.02))


def keys_like_a_model(entries: int, width: int) -> np.ndarray:
    """Keys (S, D) that lie as those of a trained model do.

    Around centres of some thirty keys each, common ones and rare ones, all with variances that fall as a power of the
    channel. The constants were chosen by the memory of a `micro` run (16,144 keys): median similarity to the nearest,
    the 4th and the 16th nearest 0.98, 0.96 and 0.90 (here, for as many keys, 0.96, 0.95 and 0.89), between any two
    0.12 with a deviation of 0.35 (here 0.07 and 0.35), recall of the four nearest among 256 lists when 8, 16 or 32 are
    probed 0.981, 0.994 and 0.999 (here 0.984, 0.994 and 0.998).
    """
    drawn = np.random.default_rng(0)
    spread_D = np.arange(1, width + 1) ** -0.75
    spread_D /= np.linalg.norm(spread_D)
    centre_CD = drawn.standard_normal((entries // 30, width)) * spread_D
    centre_CD[:, 0] += 0.35
    share_C = np.arange(1, len(centre_CD) + 1) ** -0.7
    centre_SD = centre_CD[drawn.choice(len(centre_CD), entries, p=share_C / share_C.sum())]
    reach_S1 = 0.36 * np.exp(0.6 * drawn.standard_normal((entries, 1)))
    return to_length_1(centre_SD + reach_S1 * drawn.standard_normal((entries, width)) * spread_D)


def keys_without_structure(entries: int, width: int) -> np.ndarray:
    """Keys (S, D) of which none is near another: only comparing with every one finds the nearest."""
    return to_length_1(np.random.default_rng(0).standard_normal((entries, width)))


def to_length_1(key_SD: np.ndarray) -> np.ndarray:
    return (key_SD / np.linalg.norm(key_SD, axis=1, keepdims=True)).astype(np.float32)


class Alone(NanoThink):
    """One expert of a mixture with the face of the whole, and without a router."""

    def __init__(self, model: NanoThink, name: str):
        super().__init__(model.head, {name: model.experts[name]}, model.router, model.start_token)
        self.name, self.expert = name, model.experts[name]

    def start(self, batch: int, capacity: int) -> Cache:
        timeline = Timeline(batch, capacity)
        return Cache(timeline, {self.name: self.expert.start(batch, capacity)}, Nothing())

    def extend(self, tokens_BT: Tensor, cache: Cache, documents_BT: Tensor | None = None) -> Routed:
        span = cache.timeline.append(cache.timeline.number(tokens_BT, self.start_token))
        return self._alone(self.expert.extend(self.head.embed(tokens_BT), span, cache.experts[self.name]))

    def advance(self, tokens_R: Tensor, rows: Rows, cache: Cache) -> Routed:
        return self._alone(self.expert.advance(self.head.embed(tokens_R), rows, cache.experts[self.name])[:, None])

    def logits_of_rows(self, routed: Routed) -> Tensor:
        return self.head.logits_of_rows(routed.hidden[:, 0])

    @staticmethod
    def _alone(hidden_BTD: Tensor) -> Routed:
        return Routed(hidden_BTD, hidden_BTD.new_ones(*hidden_BTD.shape[:2], 1), hidden_BTD[:, :, None])


class Nothing:
    """The cache of no router."""

    def join(self, one: "Nothing", slot: object) -> None:
        """Nothing is kept."""
