"""Concepts: what the next tokens are about, as one of 50,257 vertices of a hypercube, predicted and fed back.

A concept is what the sixteen next tokens have in common: the signs of their mean embedding along sixteen directions. Of
these only the training knows; the model goes by what it expects.

B batch, T tokens, D model width, N = 16 bits, G = 4 groups of 4 bits, W = 16 words of a group
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nano_think.heads.figures import FiguresHead, touch
from nano_think.heads.language import LanguageHead
from nano_think.nn.cache import Rows, Span
from nano_think.nn.documents import mean_ahead
from nano_think.nn.hypercube import VertexEmbedding, concept_of, unpack_bits
from nano_think.parts import PARTS, Dials, Lesson, Part, PartConfig, Voices

CONCEPTS, BITS, GROUPS = 50_257, 16, 4
WORDS = 2 ** (BITS // GROUPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptsConfig(PartConfig):
    """Concepts of the text to come."""

    horizon: int = 16
    """Tokens that a concept is of; fewer where the document or the window ends (tokens)."""
    inner: int = 0
    """Inner width of the head; 0 is the model width (channels)."""
    pairs: int = 8
    """Factors by which pairs of bits are embedded (numbers)."""
    weight: float = 0.1
    """Weight of the loss of the concepts (a factor)."""
    touch: float = 1.0
    """Share of the gradient of that loss that reaches the model (0 to 1)."""
    targets: Literal["next", "shifted"] = "next"
    """Of which tokens: the next ones or, as a control, those of another place, half a window away."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.inner < 0 or self.pairs < 1:
            raise ValueError("horizon, inner and pairs: wanted at least 1, 0 and 1")
        if not (self.weight >= 0 and 0 <= self.touch <= 1):
            raise ValueError(f"weight and touch: wanted 0 or more and 0 to 1, got {self.weight} and {self.touch}")


@PARTS.register("concepts")
class Concepts(Part):
    """p(vertex | h) = prod_g p_g(four bits | h), 4 x 16 logits in place of 50,257 x D; h' = h + C(E[signs])."""

    Config = ConceptsConfig
    tells = ("concept_certainty",)
    directions: Tensor
    centre: Tensor
    signs_WN: Tensor

    def __init__(self, config: ConceptsConfig, width: int, vocabulary: int):
        super().__init__()
        self.config = config
        self.head = FiguresHead(width, config.inner or width, GROUPS * WORDS)
        self.embedding = VertexEmbedding(BITS, width, config.pairs)
        self.register_buffer("directions", torch.zeros(width, BITS))
        self.register_buffer("centre", torch.zeros(width))
        signs_WN = unpack_bits(torch.arange(WORDS), BITS // GROUPS)
        self.register_buffer("signs_WN", signs_WN, persistent=False)

    def study(self, token_bytes: Sequence[bytes], head: LanguageHead) -> None:
        """The directions in which embeddings of words, as often as they come, differ most; their mean."""
        p_V = head.bias.double().softmax(0)
        self.centre.copy_(p_V @ head.table.double())
        off_VD = head.table.double() - self.centre
        _, directions_DD = torch.linalg.eigh((off_VD * p_V[:, None]).T @ off_VD)
        found = min(BITS, head.width)
        self.directions.zero_()[:, :found] = directions_DD[:, -found:].flip(1)

    def speak(self, said: Voices, documents_BT: Tensor, dials: Dials) -> Voices:
        return self._told(said)

    def extend_speak(self, said: Voices, span: Span, cache: object) -> Voices:
        return self._told(said)

    def advance_speak(self, said: Voices, rows: Rows, cache: object) -> Voices:
        return self._told(said)

    def judge(self, hidden: Tensor) -> dict[str, Tensor]:
        """The probability of the likeliest vertex, (...)."""
        return {"concept_certainty": self._logits(hidden).softmax(-1).amax(dim=-1).prod(dim=-1)}

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """-ln p of each group's four bits, the sum over groups, of every position that has a next token."""
        signs_BTN, known_BT = self.targets(lesson)
        words_BTG = self.words(signs_BTN)
        logits_BTGW = self._logits(touch(lesson.body_BTD, self.config.touch))
        nll_BTG = cross_entropy(logits_BTGW.movedim(-1, 1), words_BTG, reduction="none")
        count = lesson.learned_BT.sum().clamp_min(1)
        return {"next": self.config.weight * lesson.tally(nll_BTG.sum(-1), known_BT) / count}

    @torch.no_grad()
    def targets(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """The signs of the vertices to be predicted, (B, T, N), and where there are any, (B, T)."""
        x_BTD = lesson.head.embed(lesson.targets_BT)
        mean_BTD, known_BT = mean_ahead(x_BTD, lesson.every_BT, lesson.documents_BT, self.config.horizon)
        signs_BTN = signs_of(self.project(mean_BTD))
        if self.config.targets == "shifted":
            half = signs_BTN.shape[1] // 2
            return signs_BTN.roll(half, dims=1), known_BT & known_BT.roll(half, dims=1)
        return signs_BTN, known_BT

    def project(self, mean: Tensor) -> Tensor:
        """How far mean embeddings (..., D) lie from that of all text along each direction, (..., N)."""
        return (mean - self.centre) @ self.directions

    def expect(self, hidden: Tensor) -> Tensor:
        """The signs of the likeliest vertex, (..., N)."""
        return self.signs_WN[self._logits(hidden).argmax(dim=-1)].flatten(-2)

    def log_p_of(self, hidden: Tensor, signs: Tensor) -> Tensor:
        """ln p of vertices given by their signs (..., N), (...)."""
        log_p_GW = self._logits(hidden).log_softmax(-1)
        words_G1 = self.words(signs)[..., None]
        shape = torch.broadcast_shapes(log_p_GW.shape[:-2], words_G1.shape[:-2])
        log_p_GW, words_G1 = log_p_GW.expand(*shape, -1, -1), words_G1.expand(*shape, -1, -1)
        return log_p_GW.gather(-1, words_G1).sum(dim=(-1, -2))

    @staticmethod
    def words(signs: Tensor) -> Tensor:
        """Signs (..., N) -> the word of each group, (..., G)."""
        bits = (signs > 0).long().unflatten(-1, (GROUPS, -1))
        return (bits << torch.arange(bits.shape[-1], device=bits.device)).sum(dim=-1)

    def log_p(self, hidden: Tensor) -> Tensor:
        """ln p of all concepts, (..., 50,257), exactly: vertices that are no concept of their own count to their
        neighbour's.
        """
        log_p_GW = self._logits(hidden).log_softmax(-1)
        vertex_X = torch.arange(2**BITS, device=hidden.device)
        word_XG = self.words(unpack_bits(vertex_X, BITS))
        log_p_X = torch.stack([log_p_GW[..., group, word_XG[:, group]] for group in range(GROUPS)]).sum(dim=0)
        concept_X = concept_of(vertex_X, BITS, CONCEPTS)
        p_C = torch.zeros(*log_p_X.shape[:-1], CONCEPTS, device=hidden.device)
        return p_C.index_add(-1, concept_X, log_p_X.exp()).log()

    def _logits(self, hidden: Tensor) -> Tensor:
        """(..., G, W)."""
        return self.head(hidden).unflatten(-1, (GROUPS, WORDS))

    def _told(self, said: Voices) -> Voices:
        """The state with what is expected of the text to come."""
        signs = (self._logits(said.hidden).softmax(-1) @ self.signs_WN).flatten(-2)
        told = self.embedding(signs).to(said.hidden.dtype)
        return Voices(said.hidden + told, said.weights, said.streams + told[..., None, :])


def signs_of(places: Tensor) -> Tensor:
    """Numbers as -1 and 1."""
    return (places > 0) * 2.0 - 1
