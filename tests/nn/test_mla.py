"""Both attentions of the router against their equations, written out position by position; what their caches hold."""

import pytest
import torch
from torch import Tensor

from nano_think.models.think import RouterConfig, build_attention
from nano_think.nn.attention import attend_where
from nano_think.nn.cache import Timeline
from nano_think.nn.documents import causal_mask
from nano_think.nn.mha import PlainAttention
from nano_think.nn.mla import LatentAttention
from nano_think.stages.pipeline import load
from tests.perturbation import randomise_zeros

B, T, D, N = 2, 11, 24, 3
KINDS = ("mla", "mha")


def build(kind: str) -> LatentAttention | PlainAttention:
    torch.manual_seed(0)
    layer = build_attention(RouterConfig(attention=kind, n_heads=N, latent=5, rotated=6), D)  # type: ignore[arg-type]
    return randomise_zeros(layer)  # type: ignore[return-value]


def turn(x: Tensor, position: int) -> Tensor:
    """RoPE of one vector as complex numbers (Su et al. 2021, eq. 34)."""
    half = len(x) // 2
    angle = position * 10_000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half), angle)
    return torch.cat([turned.real, turned.imag])


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


def rows_of_mla(layer: LatentAttention, u_D: Tensor, t: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of one head at one position, none of them absorbed (DeepSeek-V2, eq. 9 to 19)."""
    H, R, L = layer.head, layer.rotated, layer.latent
    q = (layer.query.weight @ u_D).view(N, H + R)[n]
    down = layer.down.weight @ u_D
    up = (layer.up.weight @ rms(down[:L])).view(N, 2, H)[n]
    return torch.cat([q[:H], turn(q[H:], t)]), torch.cat([up[0], turn(down[L:], t)]), up[1]


def rows_of_mha(layer: PlainAttention, u_D: Tensor, t: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (layer.attention.qkv.weight @ u_D).view(3, N, D // N)[:, n]
    return turn(rms(q), t), turn(rms(k), t), v


@torch.no_grad()
def naive(layer: LatentAttention | PlainAttention, u_BTD: Tensor, documents_BT: Tensor) -> Tensor:
    """Attention as a sum over positions, one head and one query at a time."""
    latent = isinstance(layer, LatentAttention)
    rows, out = (rows_of_mla, layer.out) if latent else (rows_of_mha, layer.attention.out)  # type: ignore[union-attr]
    found = torch.zeros(B, T, N, D // N)
    for b, n in torch.cartesian_prod(torch.arange(B), torch.arange(N)).tolist():
        q, k, v = zip(*(rows(layer, u_BTD[b, t], t, n) for t in range(T)), strict=True)  # type: ignore[arg-type]
        for t in range(T):
            seen = [s for s in range(t + 1) if documents_BT[b, s] == documents_BT[b, t]]
            score = torch.stack([q[t] @ k[s] for s in seen]) / len(q[t]) ** 0.5
            found[b, t, n] = score.softmax(0) @ torch.stack([v[s] for s in seen])
    return found.flatten(2) @ out.weight.T


def case() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, T, D), torch.tensor([[0] * T, [0] * 4 + [1] * (T - 4)])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_the_naive_form(kind: str):
    layer, (u, documents) = build(kind), case()
    got = layer(u, attend_where(causal_mask(documents)))
    torch.testing.assert_close(got, naive(layer, u, documents), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[T], [4, 1, 1, T - 6], [1] * T])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_attention_is_the_naive_form(kind: str, pieces: list[int]):
    layer, (u, documents) = build(kind), case()
    timeline, past = Timeline(B, T), layer.start(T)
    parts = zip(u.split(pieces, 1), documents.split(pieces, 1), strict=True)
    got = torch.cat([layer.extend(x, timeline.append(d), past) for x, d in parts], dim=1)  # type: ignore[arg-type]
    torch.testing.assert_close(got, naive(layer, u, documents), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def bytes_per_token(kind: str) -> float:
    """What the router of the seed preset keeps of a token, counted on a cache that has read some."""
    space, config = load("seed").space, load("seed", {"router": {"model": {"attention": kind}}}).router.model
    layer, tokens = build_attention(config, space.width), 8
    timeline, past = Timeline(1, tokens), layer.start(tokens)
    layer.extend(torch.randn(1, tokens, space.width), timeline.append(torch.zeros(1, tokens, dtype=torch.long)), past)
    if kind == "mla":
        assert past.rows is not None  # type: ignore[union-attr]
        return past.rows.nbytes / tokens  # type: ignore[union-attr]
    return sum(buffer.nbytes for buffer in past.rows.buffers) / tokens  # type: ignore[union-attr]


def test_latents_need_a_sixth_of_the_bytes_of_keys_and_values():
    assert bytes_per_token("mla") == 4 * (96 + 32) and bytes_per_token("mha") == 4 * 2 * 384
    assert bytes_per_token("mha") / bytes_per_token("mla") == 6
