"""The model that the shared token table is trained in.

B batch, T tokens, D model width, V vocabulary
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nano_think.core.config import Config
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.nn.attention import attend_where, causal_tiles
from nano_think.nn.block import Block
from nano_think.nn.documents import causal_mask, number_documents
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rope import Rope
from nano_think.nn.weights import load_weights, save_weights

TABLE = "embedding.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderConfig(Config):
    """The small transformer around the table while the table learns."""

    n_layers: int = 2
    """Layers."""
    n_heads: int = 4
    """Attention heads."""
    inner: int = 384
    """Inner width of the SwiGLU (channels)."""

    def __post_init__(self) -> None:
        self.at_least(0, "n_layers")
        self.at_least(1, "n_heads", "inner")


class Embedder(nn.Module):
    """A transformer with a tied table, normalised at every step as it will be when it is frozen.

    What is frozen is thus what was trained: rows centred and of length sqrt(D), logits E h / sqrt(D) + b.
    """

    bias: Tensor

    def __init__(self, config: EmbedderConfig, width: int, bias_V: Tensor):
        super().__init__()
        self.table = nn.Parameter(torch.randn(len(bias_V), width))
        self.register_buffer("bias", bias_V)
        self.blocks = nn.ModuleList(Block(width, config.n_heads, config.inner) for _ in range(config.n_layers))
        self.rope = Rope(width // config.n_heads)
        self.norm = RMSNorm(width)
        self.out = linear(width, width, zero=True)

    def head(self) -> LanguageHead:
        """The head over the table as it is now; gradients reach the table through it."""
        return LanguageHead(normalise_table(self.table), self.bias)

    def read(self, head: LanguageHead, tokens_BT: Tensor, start_token: int) -> Tensor:
        """Hidden states for the head, (B, T, D)."""
        x_BTD = head.embed(tokens_BT)
        rope = self.rope(torch.arange(x_BTD.shape[1], device=x_BTD.device))
        mask = causal_mask(number_documents(tokens_BT, start_token))
        attend = attend_where(mask, causal_tiles(x_BTD.shape[1]))
        for block in self.blocks:
            x_BTD = block(x_BTD, rope, attend)
        return self.out(self.norm(x_BTD))

    def losses(self, tokens_BT1: Tensor, start_token: int) -> dict[str, Tensor]:
        """Mean next-token loss in nats per token of windows (B, T + 1)."""
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        head = self.head()
        hidden_BTD = self.read(head, inputs_BT, start_token)
        return {"next_token": head.mean_nll(hidden_BTD, targets_BT, targets_BT != start_token)}


def save_head(folder: Path, head: LanguageHead) -> None:
    """Write the token table and the bias of a finished embedder."""
    save_weights(folder / TABLE, {"table": head.table, "bias": head.bias})


def load_head(folder: Path) -> LanguageHead:
    """The frozen head over the token table in `folder`."""
    tensors = load_weights(folder / TABLE)
    return LanguageHead(tensors["table"], tensors["bias"])
