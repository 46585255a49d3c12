"""How the terms of a loss pull: along with the first of them, or against it."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def gradient_cosines(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """For each term behind the first the cosine between its gradient and the first one's, over the parameters that both
    reach; nothing for a term that shares none with it. The graph and the gradients stay as they are.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    first, *others = terms
    own = _gradient(terms[first], learned)
    found = {name: _cosine(own, _gradient(terms[name], learned)) for name in others}
    return {name: value for name, value in found.items() if value is not None}


def _gradient(term: Tensor, learned: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if not term.requires_grad:
        return (None,) * len(learned)
    return torch.autograd.grad(term, learned, retain_graph=True, allow_unused=True)


def _cosine(one: tuple[Tensor | None, ...], other: tuple[Tensor | None, ...]) -> float | None:
    shared = [(a.flatten(), b.flatten()) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not shared:
        return None
    a, b = (torch.cat(parts).double() for parts in zip(*shared, strict=True))
    size = a.norm() * b.norm()
    return float(a @ b / size) if size > 0 else None
