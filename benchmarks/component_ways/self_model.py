"""The self-model: does it foresee the model's own loss over the next 32 tokens better than simple statistics do?

Metric: R^2 on test documents. Null: least squares, fitted on validation documents, on the entropy of the model's next
token and a moving average of its past losses (0.9 of the old one at each token).
"""

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
from nano_think.parts.self_model import SelfModelConfig, coming_loss

KEPT = 0.9


def measure(ground: Ground, seed: int, tokens: int) -> dict[str, Any]:
    config, taught, trained = SelfModelConfig(), {}, {}
    for name in ("off", "on"):
        taught[name], _ = ground.chat(seed, {"self_model": config} if name == "on" else {})
        trained[name] = teach(taught[name], text_windows(ground, seed), tokens, seed)
    test, fit = ground.documents("test", 20_000), ground.documents("validation", 20_000)
    model = taught["on"]
    came_N, mean_N, spread_N, simple_NF = observe(model, test, ground.window, config.horizon)
    came_M, mean_M, _, simple_MF = observe(model, fit, ground.window, config.horizon)
    weights_F, *_ = np.linalg.lstsq(simple_MF, came_M, rcond=None)
    rates = {name: bits_per_byte(one, test, ground.window) for name, one in taught.items()}
    surprise_N = (came_N - mean_N) / spread_N
    return {
        "metric": "R^2 of the loss over the next 32 tokens", "better": "higher",
        "value": explained(came_N, mean_N),
        "null": "entropy and moving average", "null_value": explained(came_N, simple_NF @ weights_F),
        "parameters": count_parameters(model.parts["self_model"]) / count_parameters(taught["off"]),
        "flops": trained["on"] / trained["off"] - 1, "bits_per_byte": rates["on"] / rates["off"] - 1,
        "more": {
            "bits_per_byte": rates, "positions": len(came_N),
            "within_one_spread": float((abs(surprise_N) < 1).mean()), "wanted": 0.683,
            "within_two_spreads": float((abs(surprise_N) < 2).mean()),
            "both": both(came_M, came_N, np.column_stack([simple_MF, mean_M]), np.column_stack([simple_NF, mean_N])),
        },
    }  # fmt: skip


@torch.no_grad()
def observe(model: Chat, documents: Sequence[Document], window: int, horizon: int) -> tuple[np.ndarray, ...]:
    """Of each position with a whole horizon before it in its window: the loss that came, the expected one, its spread,
    (N) each; and what simple statistics say: 1, entropy, moving average, (N, F).
    """
    rows: list[Tensor] = []

    def see(inputs_BT: Tensor, targets_BT: Tensor, counted_BT: Tensor, routed: Any) -> None:
        nll_BT = model.nll(routed, targets_BT).float()
        came_BT, known_BT = coming_loss(nll_BT, counted_BT, number_documents(inputs_BT, model.start_token), horizon)
        whole_BT = known_BT & counted_BT
        whole_BT[:, -horizon + 1 :] = False
        log_p_BTV = model.logits(routed).log_softmax(-1)
        entropy_BT = -(log_p_BTV.exp() * log_p_BTV).sum(-1)
        told = model.judge(routed)
        features = torch.stack([entropy_BT, moving_average(nll_BT)], dim=-1)
        columns = torch.stack([came_BT, told["expected_loss"], told["expected_spread"]], dim=-1)
        rows.append(torch.cat([columns, torch.ones_like(columns[..., :1]), features], dim=-1)[whole_BT])

    each_target(model, documents, window, see)
    all_NC = torch.cat(rows).double().numpy()
    return all_NC[:, 0], all_NC[:, 1], all_NC[:, 2], all_NC[:, 3:]


def moving_average(nll_BT: Tensor) -> Tensor:
    """Of the losses before each position, (B, T); at the first, the mean of all there are is not known: 0 is told."""
    average_B, found = torch.zeros_like(nll_BT[:, 0]), []
    weight = 0.0
    for t in range(nll_BT.shape[1]):
        found.append(average_B / max(weight, 1e-9))
        average_B, weight = KEPT * average_B + (1 - KEPT) * nll_BT[:, t], KEPT * weight + 1 - KEPT
    return torch.stack(found, dim=1)


def explained(came_N: np.ndarray, told_N: np.ndarray) -> float:
    """R^2 = 1 - sum (y - f)^2 / sum (y - mean y)^2."""
    return float(1 - ((came_N - told_N) ** 2).sum() / ((came_N - came_N.mean()) ** 2).sum())


def both(came_M: np.ndarray, came_N: np.ndarray, wide_MF: np.ndarray, wide_NF: np.ndarray) -> float:
    """R^2 of least squares on the simple statistics and the expected loss together."""
    weights_F, *_ = np.linalg.lstsq(wide_MF, came_M, rcond=None)
    return explained(came_N, wide_NF @ weights_F)
