"""The loss on held-out text while a training is under way, and the weights that had the lowest."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nano_think.data.loader import Batches
from nano_think.training.checkpoint import Weights
from nano_think.training.objectives import Objective
from nano_think.training.ranks import Ranks

if TYPE_CHECKING:
    from accelerate import Accelerator


class Validation:
    """The same windows every time, so that two losses differ by the weights alone; each rank computes its rows."""

    def __init__(self, objective: Objective, batches: Batches, tokens: int, accelerator: "Accelerator"):
        """tokens: about how many are predicted each time, at most once through the text."""
        self.objective, self.batches, self.accelerator = objective, batches, accelerator
        self.steps = min(batches.steps_per_epoch, max(1, round(tokens / (batches.batch_size * batches.window))))
        self.ranks = Ranks(accelerator)
        self.best: Weights | None = None
        self.figures: dict[str, Any] = {}

    def restore(self, figures: dict[str, Any], best: Weights | None) -> None:
        """Go on from what a checkpoint held."""
        self.figures, self.best = figures, best

    def look(self, step: int) -> float:
        """The mean loss now, in nats per token; the weights are kept if it is the lowest."""
        loss = self._measure()
        self.figures["validation"] = loss
        if loss < self.figures.get("best_validation", float("inf")):
            self.figures |= {"best_validation": loss, "best_step": step}
            self.best = {name: value.detach().cpu().clone() for name, value in self.objective.state_dict().items()}
        return loss

    @torch.no_grad()
    def _measure(self) -> float:
        self.objective.eval()
        total = torch.stack([self._look_at(step) for step in range(self.steps)]).sum(dim=0)
        self.objective.train()
        loss, count = self.ranks.sum(total).tolist()
        return loss / max(count, 1)

    def _look_at(self, step: int) -> Tensor:
        """(sum of the loss, predicted tokens) of this rank's rows of a batch, in fp32."""
        windows = torch.from_numpy(self.batches.batch(step, self.ranks.rank, self.ranks.world))
        windows = windows.to(self.accelerator.device)
        count = self.objective.count_predicted(windows)
        with self.accelerator.autocast():
            return torch.stack([self.objective.validation_loss(windows).float() * count, count.float()])
