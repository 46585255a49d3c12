"""Who is scored: the hidden states that each model, and each way to mix the experts, speaks through the shared head.

B batch, T tokens, D model width, K experts
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nano_think.evaluation.calibration import Calibration
from nano_think.experts import Expert
from nano_think.models.chat import Model
from nano_think.models.fusion import mixed_nll
from nano_think.models.think import NanoThink, Routed
from nano_think.nn.blend import weighted_sum
from nano_think.nn.documents import number_documents

LEFT_OUT, WITHOUT = "diffuser", "without_diffuser"
"""The member whose contribution has a row of its own, and that row."""
ROUTER, SECOND = "router_", "router_second"
"""What the rows of other routers begin with, and that of a mixture with a second transformer in that member's place."""
CALIBRATED = "calibrated."
"""What the columns of calibrated figures begin with."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What a mixture is compared with beside its own members, and everybody's calibration, by scorer."""

    dense: Expert | None = None
    """The transformer of equal parameters and training FLOPs."""
    static: tuple[float, ...] = ()
    """A weight for each expert that is the same at every token, times one scale; empty where there is none."""
    rivals: Mapping[str, NanoThink] = field(default_factory=dict)
    """Other mixtures that weigh hidden states, by scorer; an expert that has the name of one of the model's is that
    one."""
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Controls":
        """The same, its model on a device."""
        dense = self.dense.to(device) if self.dense else None
        return replace(self, dense=dense, rivals={name: one.to(device) for name, one in self.rivals.items()})


def speakers(model: Model, controls: Controls | None) -> list[str]:
    """Who speaks, in the order of the tables.

    Each expert alone; "uniform", their equal sum; "mixture", the router's. With controls also "static"; other
    mixtures; "without_diffuser", the router as it is, with that expert's weight removed and the others' divided by
    their sum; and "dense".
    """
    if controls is None:
        return [*model.names, "uniform", "mixture"]
    static = ["static"] if controls.static else []
    left_out = [WITHOUT] if LEFT_OUT in model.names and len(model.names) > 1 else []
    return [
        *model.names,
        "uniform",
        *static,
        *controls.rivals,
        *left_out,
        "mixture",
        *(["dense"] if controls.dense else []),
    ]


def columns(model: Model, controls: Controls | None) -> list[str]:
    """The keys of `nats`: every speaker plain, and calibrated where its calibration is known; with controls "oracle",
    of each token the best expert's, which no model can know beforehand.
    """
    names = speakers(model, controls)
    if controls is None:
        return names
    calibrated = [CALIBRATED + name for name in names if name in controls.calibrations]
    known = ["", CALIBRATED] if set(model.names) <= controls.calibrations.keys() else [""]
    return [*names, *calibrated, *(f"{prefix}oracle" for prefix in known)]


def through_hiddens(model: Model, controls: Controls | None) -> list[str]:
    """The `speakers` that speak through a hidden state: all, but that a sum of distributions does not. What does not
    has no calibration either.
    """
    mixed = ("mixture", WITHOUT) if model.fusion == "probability" else ()
    return [name for name in speakers(model, controls) if name not in mixed]


def hiddens(model: Model, routed: Routed, inputs_BT: Tensor, controls: Controls | None) -> dict[str, Tensor]:
    """The hidden states of those that speak through one, (B, T, D) each."""
    return {name: _hidden(name, model, routed, inputs_BT, controls) for name in through_hiddens(model, controls)}


def _hidden(name: str, model: Model, routed: Routed, inputs_BT: Tensor, controls: Controls | None) -> Tensor:
    if name == "mixture":
        return routed.hidden
    if name in model.names:
        return routed.streams[:, :, model.names.index(name)]
    if name == "uniform":
        return weighted_sum(torch.full_like(routed.weights, 1 / len(model.names)), routed.streams)
    if name == WITHOUT:
        assert isinstance(model, NanoThink)
        return model.router.blend.fuse(without(routed.weights, model.names.index(LEFT_OUT)), routed.streams)
    assert controls
    if name == "static":
        return weighted_sum(routed.weights.new_tensor(controls.static).expand_as(routed.weights), routed.streams)
    if name in controls.rivals:
        return _fused(controls.rivals[name], model, routed, inputs_BT)
    assert name == "dense" and controls.dense
    return controls.dense(model.head.embed(inputs_BT), number_documents(inputs_BT, model.start_token))


def _fused(rival: NanoThink, model: Model, routed: Routed, inputs_BT: Tensor) -> Tensor:
    """The fused hidden of another mixture, (B, T, D); only experts that the model has not are computed."""
    x_BTD, documents_BT = model.head.embed(inputs_BT), number_documents(inputs_BT, model.start_token)
    streams = [
        routed.streams[:, :, model.names.index(name)] if name in model.names else expert(x_BTD, documents_BT)
        for name, expert in rival.experts.items()
    ]
    return rival(inputs_BT, None, torch.stack(streams, dim=2)).hidden


def without(weights_BTK: Tensor, k: int) -> Tensor:
    """The weights without those of expert k, summing to 1 again; equal where k alone had any, (B, T, K)."""
    kept_BTK = weights_BTK.clone()
    kept_BTK[..., k] = 0.0
    sum_BT1 = kept_BTK.sum(-1, keepdim=True)
    equal_K = torch.full_like(weights_BTK[0, 0], 1 / (weights_BTK.shape[-1] - 1))
    equal_K[k] = 0.0
    return torch.where(sum_BT1 > 0, kept_BTK / sum_BT1.clamp_min(torch.finfo(sum_BT1.dtype).tiny), equal_K)


def nats(
    model: Model, routed: Routed, hidden: dict[str, Tensor], targets_BT: Tensor, controls: Controls | None
) -> dict[str, Tensor]:
    """-log p of each target in nats, (B, T), by column."""
    found = {name: model.head.nll(hidden_BTD, targets_BT) for name, hidden_BTD in hidden.items()}
    each_BTK = torch.stack([found[member] for member in model.names], dim=-1)
    for name in columns(model, controls):
        speaker = name.removeprefix(CALIBRATED)
        if name in ("mixture", WITHOUT) and name not in found:
            left_out = model.names.index(LEFT_OUT) if name == WITHOUT else None
            weights_BTK = routed.weights if left_out is None else without(routed.weights, left_out)
            found[name] = mixed_nll(weights_BTK, each_BTK)
        if speaker == "oracle":
            prefix = name.removesuffix(speaker)
            found[name] = torch.stack([found[prefix + member] for member in model.names]).amin(dim=0)
        elif name not in found and controls:
            found[name] = controls.calibrations[speaker].nll(model.head, hidden[speaker], targets_BT)
    return found
