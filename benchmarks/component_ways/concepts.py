"""Concepts: does the model predict text better for having learned what is to come than for having learned the same of
another place?

Metric: bits per byte of text. Null: the same part, its targets those of a place half a window away, with the same
windows and steps. Beside it: how many bits of the vertex the context
tells.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from component_ways.ground import Ground, bits_per_byte, each_target, teach, text_windows
from nano_think.evaluation.reading import Document
from nano_think.experts import count_parameters
from nano_think.models.chat import Chat
from nano_think.nn.documents import number_documents
from nano_think.nn.hypercube import concept_of, pack_bits
from nano_think.parts import Lesson
from nano_think.parts.concepts import BITS, CONCEPTS, WORDS, Concepts, ConceptsConfig


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    documents, taught, trained = ground.documents("test", 20_000), {}, {}
    ways = {"off": None, "on": ConceptsConfig(), "null": ConceptsConfig(targets="shifted")}
    for name, part in ways.items():
        taught[name], _ = ground.chat(seed, {"concepts": part} if part else {})
        trained[name] = teach(taught[name], text_windows(ground, seed), tokens, seed)
    rates = {name: bits_per_byte(model, documents, ground.window) for name, model in taught.items()}
    return {
        "metric": "bits per byte", "better": "lower", "value": rates["on"],
        "null": "targets of another place", "null_value": rates["null"],
        "parameters": count_parameters(taught["on"].parts["concepts"]) / count_parameters(taught["off"]),
        "flops": trained["on"] / trained["off"] - 1, "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": {"bits_per_byte": rates, "concepts": about(taught["on"], documents, ground.window)},
    }  # fmt: skip


@torch.no_grad()
def about(model: Chat, documents: Sequence[Document], window: int) -> dict[str, Any]:
    """Bits of a vertex without context and given it, and how many concepts are in use."""
    part, head = model.parts["concepts"], model.head
    assert isinstance(part, Concepts)
    words: list[Tensor] = []
    vertices: list[Tensor] = []
    nats: list[Tensor] = []

    def see(inputs_BT: Tensor, targets_BT: Tensor, counted_BT: Tensor, routed: Any) -> None:
        windows = torch.cat([inputs_BT, targets_BT[:, -1:]], dim=1)
        documents_BT, hidden = number_documents(inputs_BT, model.start_token), routed.hidden
        lesson = Lesson(windows, documents_BT, counted_BT, counted_BT, head, hidden, hidden, model.write)
        signs_BTN, known_BT = part.targets(lesson)
        body_BTD = model.backbone(head.embed(inputs_BT), documents_BT)
        word_BTG = part.words(signs_BTN)
        log_p_BTGW = part._logits(body_BTD).log_softmax(-1)
        nats.append(-log_p_BTGW.gather(-1, word_BTG[..., None])[..., 0].sum(-1)[known_BT])
        words.append(word_BTG[known_BT]), vertices.append(pack_bits(signs_BTN)[known_BT])

    each_target(model, documents, window, see)
    word_SG, vertex_S = torch.cat(words), torch.cat(vertices)
    used = torch.bincount(concept_of(vertex_S, BITS, CONCEPTS))
    share = used[used > 0] / used.sum()
    return {
        "prior_bits": entropy(word_SG), "bits": float(torch.cat(nats).mean()) / math.log(2),
        "positions": len(vertex_S), "concepts_in_use": len(share),
        "perplexity": float((-(share * share.log()).sum()).exp()),
    }  # fmt: skip


def entropy(word_SG: Tensor) -> float:
    """Bits of the words of all groups under their own shares: what is needed without context."""
    shares = [np.bincount(column, minlength=WORDS) / len(column) for column in word_SG.T.numpy()]
    return float(sum(-(p[p > 0] * np.log2(p[p > 0])).sum() for p in shares))
