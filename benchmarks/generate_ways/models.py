"""The compared models, with random weights.

R rows, T tokens
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.inference.remembering import Memories, keys_of
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


def build_memories(folder: Path, model: NanoThink, window: int, entries: int) -> Memories:
    """A store of what the model itself thinks behind so many tokens, and an empty memory of conversations; they count a
    little.

    The tokens are drawn as words come in texts (Zipf's law). Keys without any structure would be a question that no
    memory is asked: nothing is near anything, and only comparing with every key finds the nearest.
    """
    drawn, words = np.random.default_rng(0), len(model.head.table) - 1
    share = 1 / np.arange(1, words + 1)
    token_S = 1 + drawn.choice(words, entries + 1, p=share / share.sum())
    store = VectorStore(Entries.of(keys_of(model, token_S[:-1], window), token_S[1:]))
    said = Conversations(folder, Owner(model="benchmark", tokenizer="benchmark", width=model.head.width), write=True)
    return Memories(conversations=lambda namespace: said, store=store, gate=Gate(share=0.02))


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
