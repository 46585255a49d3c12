"""Id, ego and superego: three small adapters behind the backbone, blended for each token, and steered on request.

What makes them differ is what each is trained on beside the common loss: the id on every word of the text, whoever says
it; the ego on what the assistant says; the superego on that and against a rule that can be checked.

B batch, T tokens, D model width, K = 3 modes, R rows of a step
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nano_think.nn.blend import Blend, BlendKind, weighted_sum
from nano_think.nn.cache import Rows, RunningMean, Slot, Span
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.nn.repeats import NONE, repeating_next
from nano_think.nn.rows import linear_rows
from nano_think.parts import PARTS, Dials, Lesson, Part, PartConfig, Voices

ID, EGO, SUPEREGO = MODES = ("id", "ego", "superego")
# Of a certain word log(1 - p) has no end.
MOST_CERTAIN = 0.999


@dataclass(frozen=True, kw_only=True, slots=True)
class PsycheConfig(PartConfig):
    """Three modes of speaking, and what each is trained on."""

    rank: int = 0
    """Inner width of each mode's adapter; 0 is a quarter of the model width (channels)."""
    kind: BlendKind = "token"
    """What a token's weights may depend on: nothing, the running mean of the context, the context, or that and what
    the modes would say."""
    pressure: float = 0.3
    """Weight of the losses that the modes have of their own (a factor)."""
    rule: int = 3
    """The superego's rule: no run of this many tokens twice in a document (tokens)."""
    severity: float = 1.0
    """Weight of the rule beside the superego's next-token loss (a factor)."""
    beyond: float = 0.0
    """How much further than it has learned a mode goes that is turned up: its change is made larger by this share for
    each nat of its dial above 0 (1 / nat)."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.rule < 2:
            raise ValueError(f"rank and rule: wanted at least 0 and 2, got {self.rank} and {self.rule}")
        if not all(share >= 0 for share in (self.pressure, self.severity, self.beyond)):
            got = f"{self.pressure}, {self.severity} and {self.beyond}"
            raise ValueError(f"pressure, severity and beyond: wanted 0 or more, got {got}")


@PARTS.register("psyche")
class Psyche(Part):
    """h' = h + sum_m w_m A_m(h), A_m(h) = V_m a + (f_m . a) h with a = SiLU(U_m RMSNorm(h)); w = softmax(r(h) + s).

    V and f are 0 at first. f lets a mode speak more firmly or less, as a temperature of its own at each token would. r
    is the `Blend`'s, and s are the dials: +4 on one mode gives it at least 0.96 of an even psyche. With `beyond` a mode
    that is turned up also goes on in its direction: (1 + beyond s_m) A_m takes the place of A_m in the sum.
    """

    Config = PsycheConfig
    dials = names = MODES

    def __init__(self, config: PsycheConfig, width: int, vocabulary: int):
        super().__init__()
        self.config, rank = config, config.rank or max(1, width // 4)
        self.norm = RMSNorm(width)
        self.up = nn.ModuleList(linear(width, rank) for _ in MODES)
        self.down = nn.ModuleList(linear(rank, width, zero=True) for _ in MODES)
        self.firm = nn.ModuleList(linear(rank, 1, zero=True) for _ in MODES)
        self.blend = Blend(width, len(MODES), config.kind, scaled=False)

    def speak(self, said: Voices, documents_BT: Tensor, dials: Dials) -> Voices:
        change_BTKD = self._changes(said.hidden)
        steer_1K = as_steering(dials, said.hidden.device)[None]
        weights_BTK = self.blend.weights(said.hidden, change_BTKD, documents_BT, steer_BK=steer_1K)
        return self._blended(said.hidden, weights_BTK, self._further(change_BTKD, steer_1K[:, None]))

    def start(self, batch: int, device: torch.device | str) -> "PsycheCache":
        return PsycheCache(RunningMean(), torch.zeros(batch, len(MODES), device=device))

    def steer(self, cache: "PsycheCache", dials: Dials) -> None:
        cache.steer_BK[:] = as_steering(dials, cache.steer_BK.device)

    def extend_speak(self, said: Voices, span: Span, cache: "PsycheCache") -> Voices:
        change_BTKD = self._changes(said.hidden)
        weights_BTK = self.blend.extend(said.hidden, change_BTKD, span, cache.mean, cache.steer_BK)
        return self._blended(said.hidden, weights_BTK, self._further(change_BTKD, cache.steer_BK[:, None]))

    def advance_speak(self, said: Voices, rows: Rows, cache: "PsycheCache") -> Voices:
        h_RD = said.hidden
        changes = []
        for up, down, firm in zip(self.up, self.down, self.firm, strict=True):
            a_RI = silu(linear_rows(h_RD, up.weight, self.norm))  # type: ignore[arg-type]
            changes.append(linear_rows(a_RI, down.weight) + linear_rows(a_RI, firm.weight) * h_RD)  # type: ignore[arg-type]
        change_RKD = torch.stack(changes, dim=1)
        steer_RK = cache.steer_BK[rows.slot_R]
        weights_RK = self.blend.advance(h_RD, change_RKD, rows, cache.mean, steer_RK)
        change_RKD = self._further(change_RKD, steer_RK)
        hidden_RD = h_RD + self.blend.fuse_rows(weights_RK, change_RKD)
        return Voices(hidden_RD, weights_RK, h_RD[:, None] + change_RKD)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """Each mode alone, behind a backbone that does not learn from it, on about every third window: which, its
        tokens decide.
        """
        if not self.config.pressure:
            return {}
        share = self.config.pressure * len(MODES) / lesson.learned_BT.sum().clamp_min(1)
        mode_B, terms = lesson.tokens_BT1.sum(dim=1) % len(MODES), {}
        for place, mode in enumerate(MODES):
            own = lesson.of_rows(mode_B == place)
            hidden_BTD = self._alone(place, own.body_BTD.detach())
            mask_BT = own.every_BT if mode == ID else own.learned_BT
            terms[mode] = share * own.tally(own.head.nll(hidden_BTD, own.targets_BT), mask_BT)
            if mode == SUPEREGO:
                terms["rule"] = self.config.severity * self._broken(own, hidden_BTD) * share
        return terms

    def _broken(self, own: Lesson, hidden_BTD: Tensor) -> Tensor:
        """Unlikelihood of words that would break the rule and did not come: -log(1 - p) (Welleck et al. 2020, eq. 4),
        summed.
        """
        wrong_BT = repeating_next(own.inputs_BT, own.documents_BT, self.config.rule)
        counted_BT = (wrong_BT != NONE) & (wrong_BT != own.targets_BT) & own.learned_BT
        p_BT = (-own.head.nll(hidden_BTD, wrong_BT.clamp_min(0))).exp().clamp_max(MOST_CERTAIN)
        return -((1 - p_BT).log() * counted_BT).sum()

    def _alone(self, mode: int, h_BTD: Tensor) -> Tensor:
        """h + A_m(h) of one mode, (B, T, D)."""
        return h_BTD + self._change(mode, h_BTD, self.norm(h_BTD, for_product=True))

    def _changes(self, h_BTD: Tensor) -> Tensor:
        """A_m(h) of all modes, (B, T, K, D)."""
        n_BTD = self.norm(h_BTD, for_product=True)
        return torch.stack([self._change(mode, h_BTD, n_BTD) for mode in range(len(MODES))], dim=2)

    def _change(self, mode: int, h_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        """A_m(h), (B, T, D), of the normalised h."""
        a_BTI = silu(self.up[mode](n_BTD))
        return self.down[mode](a_BTI) + self.firm[mode](a_BTI) * h_BTD

    def _further(self, change: Tensor, steer: Tensor) -> Tensor:
        """Changes (..., K, D) under dials (..., K): those of modes that are turned up go on in their direction."""
        if not self.config.beyond:
            return change
        return change * (1 + self.config.beyond * steer.clamp_min(0))[..., None].to(change.dtype)

    def _blended(self, h_BTD: Tensor, weights_BTK: Tensor, change_BTKD: Tensor) -> Voices:
        hidden_BTD = h_BTD + weighted_sum(weights_BTK, change_BTKD)
        return Voices(hidden_BTD, weights_BTK, h_BTD[:, :, None] + change_BTKD)


class PsycheCache:
    """The running mean that the weights may need, and how each row is steered, (B, K)."""

    def __init__(self, mean: RunningMean, steer_BK: Tensor):
        self.mean, self.steer_BK = mean, steer_BK

    def join(self, one: "PsycheCache", slot: Slot) -> None:
        self.mean.join(one.mean, slot)
        self.steer_BK[slot.number] = one.steer_BK[0]

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back."""
        self.mean.rewind(tokens)


def as_steering(dials: Dials, device: torch.device) -> Tensor:
    """What is added to the modes' scores, (K,) (nats)."""
    return torch.tensor([dials.get(mode, 0.0) for mode in MODES], device=device)
