"""The shape that all ways are compared at, and what a step of it costs at least."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the compared models and of a step."""

    width: int = 384
    layers: int = 6
    heads: int = 6
    inner: int = 1536
    vocabulary: int = 8192
    batch: int = 8
    window: int = 256

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.window


def matrix_parameters(model: nn.Module) -> int:
    """Numbers in the weights of linear layers and in token tables, each counted once: what products are made of."""
    weights = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "table":
            weights[id(parameter)] = parameter
    return sum(weight.numel() for weight in weights.values())


def step_flops(model: nn.Module, shape: Shape, rows: int = 1, frozen_head: bool = False) -> float:
    """Floating-point operations of a training step that no way can do without.

    Two per number of a matrix and row, and as many for each of the two gradients; a frozen head has one gradient less.
    Attention: the causal half, for each of the `rows` rows that stand for a token. Optimiser and norms are not counted.
    """
    table = shape.vocabulary * shape.width
    layers = matrix_parameters(model) - (0 if frozen_head else table)
    head = (4 if frozen_head else 6) * table
    attention = 3 * 4 * shape.width * shape.window / 2 * len(list(model_blocks(model)))
    return shape.tokens * (rows * (6 * layers + attention) + head)


def model_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers with attention."""
    return [module for module in model.modules() if type(module).__name__ in ("Block", "LlamaDecoderLayer")]
