"""Reading documents with a mixture: every token predicted once, its context inside its own document.

B windows in a batch, T tokens, N tokens of a group of documents, K experts, D model width
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nano_think.evaluation.scorers import Controls, columns, hiddens, nats, through_hiddens
from nano_think.models.chat import Model

GROUP_TOKENS = 65_536
BATCH_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class Document:
    """A document as ids behind its start token, the bytes of its raw UTF-8 text, and the domain it belongs to."""

    tokens: np.ndarray
    bytes: int
    domain: str


@dataclass(frozen=True)
class Reading:
    """What a group of documents gave, token by token in order of the text (start tokens are never predicted).

    document (N): index into `documents`; target (N); hidden (N, D): the fused one; weights (N, K); nats: per scorer,
    (N).
    """

    documents: Sequence[Document]
    document: Tensor
    target: Tensor
    hidden: Tensor
    weights: Tensor
    nats: dict[str, Tensor]

    def of(self, index: int) -> slice:
        """The tokens of one document of the group."""
        low, high = torch.searchsorted(self.document, torch.tensor([index, index + 1])).tolist()
        return slice(low, high)


def read(
    model: Model, documents: Iterable[Document], window: int, controls: Controls | None = None
) -> Iterator[Reading]:
    """Readings of all documents, in groups of about 65,536 tokens, with the model in evaluation mode.

    controls: what is scored beside the experts, their equal sum and the mixture. A document longer than the window is
    read in windows that follow each other: the context starts anew in each.
    """
    for group in _groups(documents):
        yield _read_group(model, group, window, controls)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.tokens)
        if size >= GROUP_TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _Window:
    """`length` inputs from `first` on in document `document`; its tokens stand from `at` on in the reading."""

    document: int
    first: int
    length: int
    at: int


def _cut(group: Sequence[Document], window: int) -> list[_Window]:
    cut, at = [], 0
    for index, document in enumerate(group):
        for first in range(0, len(document.tokens) - 1, window):
            length = min(window, len(document.tokens) - 1 - first)
            cut.append(_Window(index, first, length, at))
            at += length
    return cut


def _batches(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Windows of like length together, so that little is padded."""
    batch: list[_Window] = []
    for one in sorted(windows, key=lambda w: (w.length, w.at)):
        if batch and (len(batch) + 1) * one.length > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def windows(documents: Sequence[Document], window: int, start_token: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets and whether a target counts, (B, T) each: every token of the documents is a target once."""
    for batch in _batches(_cut(documents, window)):
        inputs_BT, targets_BT, place_BT = _pad(documents, batch, start_token)
        yield inputs_BT, targets_BT, place_BT >= 0


@torch.no_grad()
def read_states(
    model: Model, documents: Sequence[Document], window: int, controls: Controls | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The hidden states by scorer, (N, D) each, and the targets, (N): what a fit needs of documents, in any order."""
    assert not model.training, "evaluate in evaluation mode"
    device, D = model.head.table.device, model.head.width
    states = {name: [torch.zeros(0, D)] for name in through_hiddens(model, controls)}
    targets = [torch.zeros(0, dtype=torch.long)]
    for inputs_BT, targets_BT, real_BT in windows(documents, window, model.start_token):
        inputs_BT = inputs_BT.to(device)
        targets.append(targets_BT[real_BT])
        for name, hidden_BTD in hiddens(model, model(inputs_BT), inputs_BT, controls).items():
            states[name].append(hidden_BTD.float().cpu()[real_BT])
    return {name: torch.cat(parts) for name, parts in states.items()}, torch.cat(targets)


@torch.inference_mode()
def _read_group(model: Model, group: Sequence[Document], window: int, controls: Controls | None) -> Reading:
    assert not model.training, "evaluate in evaluation mode"
    device, windows = model.head.table.device, _cut(group, window)
    n_tokens = sum(one.length for one in windows)
    hidden_ND = torch.zeros(n_tokens, model.head.width)
    weights_NK = torch.zeros(n_tokens, len(model.names))
    nats_N = {name: torch.zeros(n_tokens) for name in columns(model, controls)}
    document_N = torch.zeros(n_tokens, dtype=torch.long)
    target_N = torch.zeros(n_tokens, dtype=torch.long)
    for batch in _batches(windows):
        inputs_BT, targets_BT, place_BT = _pad(group, batch, model.start_token)
        real_BT = place_BT >= 0
        place = place_BT[real_BT]
        inputs_BT = inputs_BT.to(device)
        routed = model(inputs_BT)
        hidden = hiddens(model, routed, inputs_BT, controls)
        for name, nll_BT in nats(model, routed, hidden, targets_BT.to(device), controls).items():
            nats_N[name][place] = nll_BT.cpu()[real_BT]
        hidden_ND[place] = routed.hidden.cpu().float()[real_BT]
        weights_NK[place] = routed.weights.cpu()[real_BT]
        target_N[place] = targets_BT[real_BT]
        document_N[place] = torch.tensor([w.document for w in batch])[:, None].expand_as(place_BT)[real_BT]
    return Reading(group, document_N, target_N, hidden_ND, weights_NK, nats_N)


def _pad(group: Sequence[Document], batch: list[_Window], start_token: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and places in the reading, (B, T) each; padding is start tokens at place -1."""
    T = max(one.length for one in batch)
    inputs, targets = (np.full((len(batch), T), start_token, dtype=np.int64) for _ in range(2))
    place = np.full((len(batch), T), -1, dtype=np.int64)
    for row, one in enumerate(batch):
        ids = group[one.document].tokens[one.first : one.first + one.length + 1]
        inputs[row, : one.length], targets[row, : one.length] = ids[:-1], ids[1:]
        place[row, : one.length] = np.arange(one.at, one.at + one.length)
    return torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(place)
