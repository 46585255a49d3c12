"""Experts with a token table of their own, trained for many epochs, and kept as they were on average at some of them.

B batch, T tokens, D model width, V vocabulary, N tokens of documents
"""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from little import Text
from torch import Tensor, nn

from nano_think.core.files import write_json
from nano_think.core.rng import branch
from nano_think.data.loader import Windows
from nano_think.evaluation.calibration import fit_calibration
from nano_think.evaluation.reading import Document, windows
from nano_think.experts import Expert, ExpertConfig, build_expert, count_parameters, kind_of
from nano_think.experts.state_space import StateSpaceConfig
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.nn.documents import number_documents
from nano_think.nn.weights import load_weights, save_weights
from nano_think.training.flops import count_flops
from nano_think.training.loop import TrainConfig, seed_everything, train
from nano_think.training.objectives import Objective
from nano_think.training.optim import OptimConfig

POINT = "point.json"
# Of an S6 scan for each token, channel and state: a decay (2), an input (1), a state (2) and an output (2), and twice
# as many backward. `count_flops` counts matrix products alone, so that this one expert would come out cheaper.
SCAN = 3 * 7


class Speaker(Objective):
    """An expert that reads and speaks through a table of its own, which learns with it, normalised at every step; or
    through another's, which stays.
    """

    def __init__(self, expert: Expert, bias_V: Tensor, width: int, start: int, table_VD: Tensor | None = None):
        super().__init__(start)
        self.expert = expert
        first_VD = torch.randn(len(bias_V), width) if table_VD is None else table_VD.clone()
        self.table = nn.Parameter(first_VD, requires_grad=table_VD is None)
        self.register_buffer("bias", bias_V)

    def head(self) -> LanguageHead:
        return LanguageHead(normalise_table(self.table), self.bias)

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        return self.expert.losses(tokens_BT1, self.start_token, self.head())

    def cases(self) -> Iterator[float]:
        return self.expert.cases()

    @torch.no_grad()
    def states(self, documents: list[Document], window: int) -> tuple[Tensor, Tensor]:
        """Hidden states, (N, D), and targets, (N), of every token of the documents, in the order of `windows`."""
        head, hidden, targets = self.head(), [torch.zeros(0, self.table.shape[1])], [torch.zeros(0, dtype=torch.long)]
        for inputs_BT, targets_BT, real_BT in windows(documents, window, self.start_token):
            states_BTD = self.expert(head.embed(inputs_BT), number_documents(inputs_BT, self.start_token))
            hidden.append(states_BTD.float()[real_BT])
            targets.append(targets_BT[real_BT])
        return torch.cat(hidden), torch.cat(targets)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One training: an expert by name ("transformer_2" is a second one, from other draws) and how it is trained."""

    name: str
    expert: ExpertConfig
    width: int
    seed: int
    weight_decay: float
    epochs: int
    window: int
    batch: int
    rate: float

    @property
    def folder(self) -> str:
        setting = f"decay{self.weight_decay:g}-dropout{self.expert.dropout:g}"
        return f"{self.name}-{self.width}x{self.expert.n_layers}-{setting}-{self.epochs}epochs-seed{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)


class Average:
    """The mean of a model's parameters over about the last epoch, kept at the ends of some epochs."""

    def __init__(self, model: nn.Module, per_epoch: int, epochs: list[int], folder: Path):
        self.model, self.per_epoch, self.folder = model, per_epoch, folder
        self.steps = {epoch * per_epoch: epoch for epoch in epochs}
        self.mean = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] != "step":
            return
        # At first the mean of all steps: what was drawn must not linger.
        share = max(1 / self.per_epoch, 1 / event["step"])
        for name, value in self.model.named_parameters():
            self.mean[name].lerp_(value, share)
        if event["step"] in self.steps:
            save_weights(self.folder / f"{self.steps[event['step']]}.safetensors", self.mean)


def build(point: Point, text: Text, table_VD: Tensor | None = None) -> Speaker:
    seed_everything(branch(point.seed, point.name))
    expert = build_expert(kind_of(point.name), point.expert, point.width)
    return Speaker(expert, text.bias, point.width, text.start, table_VD)


def load_speaker(point: Point, text: Text, root: Path, epoch: int) -> Speaker:
    """The speaker as it was kept at the end of an epoch, in evaluation mode."""
    speaker = build(point, text)
    speaker.load_state_dict(load_weights(root / point.folder / f"{epoch}.safetensors"), strict=False)
    return speaker.eval()


def run(
    point: Point, text: Text, root: Path, epochs: list[int], accelerator: Any, table_VD: Tensor | None = None
) -> dict[str, Any]:
    """Train a point if it is not finished; what is known of it: parameters, FLOPs per epoch, seconds, and by epoch the
    calibrated loss on the validation documents (nats per token) and the scale.
    """
    place = root / point.folder / POINT
    wanted = json.loads(json.dumps({"settings": point.settings, "text": text.digest, "epochs": epochs}))
    found = json.loads(place.read_text()) if place.is_file() else {}
    if found and {name: found[name] for name in wanted} != wanted:
        raise SystemExit(f"benchmark: {place}: was made from other text or settings; choose another --root")
    if not found:
        print(f"{point.folder}: trains", flush=True)
        found = wanted | _train(point, text, root, epochs, accelerator, table_VD)
        write_json(place, found)
    return found


def _train(
    point: Point, text: Text, root: Path, epochs: list[int], accelerator: Any, table_VD: Tensor | None
) -> dict[str, Any]:
    started, folder, speaker = time.monotonic(), root / point.folder, build(point, text, table_VD)
    folder.mkdir(parents=True, exist_ok=True)
    batches = Windows(text.tokens, point.window, point.batch, branch(point.seed, point.name, "windows"))
    per_epoch = batches.steps_per_epoch
    # Level rates: the end of a training cannot be known from its middle, and each epoch of the curve is an end.
    optim = OptimConfig(matrix_rate=point.rate, weight_decay=point.weight_decay, decay=0.0, warmup=1 / point.epochs / 2)
    tokens = point.epochs * per_epoch * point.batch * point.window
    config = TrainConfig(tokens=tokens, batch=point.batch, optim=optim, save_every=1e9, log_every=1)
    per_token = count_flops(speaker, batches, accelerator) + scan_flops(point.expert)
    flops = per_token * per_epoch * point.batch * point.window
    average = Average(speaker, per_epoch, [epoch for epoch in epochs if epoch <= point.epochs], folder)
    draws = branch(point.seed, point.name, "draws")
    with tempfile.TemporaryDirectory() as work:
        figures = train(speaker, batches, config, accelerator, Path(work), average, draws)
    looks = {epoch: _look(point, text, root, epoch) for epoch in average.steps.values()}
    learned = count_parameters(speaker) if table_VD is None else count_parameters(speaker.expert)
    return {
        "parameters": learned, "flops_per_epoch": flops, "seconds": time.monotonic() - started,
        "skipped_steps": figures["skipped_steps"], "looks": {str(epoch): look for epoch, look in looks.items()},
    }  # fmt: skip


def scan_flops(expert: ExpertConfig) -> int:
    """Operations of the scans per token, forward and backward; those of "ssd" are matrix products and counted."""
    if not isinstance(expert, StateSpaceConfig) or expert.form != "s6":
        return 0
    return SCAN * expert.n_layers * expert.inner * expert.n_state


def _look(point: Point, text: Text, root: Path, epoch: int) -> dict[str, float]:
    """The loss on the validation documents, plain and calibrated, in nats per token."""
    speaker = load_speaker(point, text, root, epoch)
    hidden_ND, target_N = speaker.states(text.validation, point.window)
    head = speaker.head()
    fitted = fit_calibration(head, hidden_ND, target_N)
    with torch.no_grad():
        plain = head.nll(hidden_ND[None], target_N[None]).mean()
        calibrated = fitted.nll(head, hidden_ND[None], target_N[None]).mean()
    return {"plain": float(plain), "calibrated": float(calibrated), "scale": fitted.scale, "bias": fitted.bias}
