"""Attention: the fused kernel against its plain twin, and what RoPE and the latent form promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nano_think.experts.diffuser import attend_doubled, doubled_masks, noisy_tiles
from nano_think.nn import attention
from nano_think.nn.attention import Attend, Attention, attend_plainly, attend_where, causal_tiles
from nano_think.nn.documents import causal_mask
from nano_think.nn.mla import LatentAttention
from nano_think.nn.rope import Rope, rotate
from tests.perturbation import randomise_zeros
from tests.tiny import few


def assert_plain_twin(mask: Tensor, attend: Attend, heads: int = 2, head: int = 8, seed: int = 0) -> None:
    """Values and gradients, with values of another width than keys."""
    generator = torch.Generator().manual_seed(seed)
    B, _, T, S = mask.shape
    q, k, v, toward = (
        torch.randn(B, heads, *shape, generator=generator).requires_grad_()
        for shape in ((T, head), (S, head), (S, head + 1), (T, head + 1))
    )
    fast, plain = attend(q, k, v), attend_plainly(q, k, v, mask)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(fast, (q, k, v), toward), torch.autograd.grad(plain, (q, k, v), toward), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def packed(T: int, seed: int = 0) -> Tensor:
    """Documents that begin anywhere, (2, T)."""
    return (torch.rand(2, T, generator=torch.Generator().manual_seed(seed)) < 0.1).cumsum(1)


@few(12)
@given(T=st.integers(1, 70), heads=st.integers(1, 3), head=st.integers(1, 20), seed=st.integers(0, 999))
def test_fast_attention_is_its_plain_twin(T: int, heads: int, head: int, seed: int):
    mask = causal_mask(packed(T, seed))
    assert_plain_twin(mask, attend_where(mask), heads, head, seed)
    assert_plain_twin(mask, attend_where(mask, causal_tiles(T, 16)), heads, head, seed)


@few(12)
@given(T=st.integers(1, 70), size=st.integers(1, 20), offset=st.integers(0, 19), seed=st.integers(0, 999))
def test_tiles_of_the_doubled_sequence_leave_nothing_out(T: int, size: int, offset: int, seed: int):
    documents_BT, block_BT = packed(T, seed), ((torch.arange(T) + offset) // size).expand(2, -1)
    clean, noisy = doubled_masks(documents_BT, documents_BT, block_BT)
    assert_plain_twin(noisy, attend_where(noisy, noisy_tiles(T, size, 16)), seed=seed)
    whole = torch.cat([torch.cat([clean, torch.zeros_like(clean)], dim=-1), noisy], dim=2)
    assert_plain_twin(whole, attend_doubled(clean, noisy, size), seed=seed)


def test_kernel_of_torch_is_its_plain_twin(monkeypatch: pytest.MonkeyPatch):
    """What long windows and other devices use."""
    monkeypatch.setattr(attention, "LONGEST_KEPT", 0)
    mask = causal_mask(packed(33))
    assert_plain_twin(mask, attend_where(mask, causal_tiles(33)))


def test_fused_kernel_in_a_long_window_whose_first_keys_are_all_hidden():
    """The kernel works in blocks of keys; a block that is hidden as a whole must not yield NaN."""
    mask = causal_mask((torch.arange(1300) >= 1100).long()[None])
    q, k, v = (torch.randn(1, 1, 1300, 4) for _ in range(3))
    torch.testing.assert_close(attend_where(mask)(q, k, v), attend_plainly(q, k, v, mask), atol=1e-5, rtol=1e-5)


def test_attention_starts_as_nothing():
    """A residual branch ends in zeros, so that depth costs nothing at the first step."""
    layer = Attention(16, 2)
    rope = Rope(8)(torch.arange(5))
    assert not layer(torch.randn(1, 5, 16), rope, attend_where(causal_mask(torch.zeros(1, 5)))).any()


def test_attention_is_its_definition():
    """Head by head: q and k normalised, then turned by their positions; v as it is."""
    T, D, N = 7, 12, 3
    H, layer, u = D // N, randomise_zeros(Attention(D, N)), torch.randn(2, T, D)
    rope, mask = Rope(H)(torch.arange(T)), causal_mask(torch.zeros(2, T))
    heads = []
    for n in range(N):
        q, k, v = (u @ layer.qkv.weight[i * D + n * H : i * D + (n + 1) * H].T for i in range(3))
        q, k = (x * x.square().mean(-1, keepdim=True).rsqrt() for x in (q, k))
        heads.append(attend_plainly(rotate(q, rope), rotate(k, rope), v, mask[:, 0]))
    expected = torch.cat(heads, dim=-1) @ layer.out.weight.T
    torch.testing.assert_close(layer(u, rope, attend_where(mask)), expected, atol=1e-5, rtol=1e-5)


@few(10)
@given(shift=st.integers(1, 3000), half=st.integers(1, 16))
def test_rope_scores_depend_on_differences_alone(shift: int, half: int):
    rope, position = Rope(2 * half), torch.arange(9)
    q, k = torch.randn(1, 1, 9, 2 * half), torch.randn(1, 1, 9, 2 * half)

    def scores(first: int):
        turned = rope(position + first)
        return rotate(q, turned) @ rotate(k, turned).transpose(-1, -2)

    torch.testing.assert_close(scores(0), scores(shift), atol=2e-3, rtol=1e-3)
    turned = rotate(q, rope(position))
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(turned[:, :, 0], q[:, :, 0])


def test_rope_tells_positions_apart():
    q = torch.ones(1, 1, 6, 8)
    turned = rotate(q, Rope(8)(torch.arange(6)))
    scores = (turned @ turned.transpose(-1, -2))[0, 0]
    assert (scores[0] - scores[0, 0]).abs()[1:].min() > 0.1


def test_latent_attention_is_its_definition():
    """Head by head: k = [W_uk c ; RoPE(W_kr u)], v = W_uv c, q = [W_q u ; RoPE(W_qr u)], scores over sqrt(H + R)."""
    T, D, N, H, R, K = 7, 12, 3, 4, 6, 5
    layer, u = LatentAttention(D, N, latent=K, rotated=R), torch.randn(2, T, D)
    mask = causal_mask(torch.zeros(2, T))
    down = u @ layer.down.weight.T
    latent, rope = layer.norm(down[..., :K]), layer.rope(torch.arange(T))
    shared = rotate(down[..., K:], rope)
    heads = []
    for n in range(N):
        query = u @ layer.query.weight[n * (H + R) : (n + 1) * (H + R)].T
        up = layer.up.weight[n * 2 * H : (n + 1) * 2 * H]
        q = torch.cat([query[..., :H], rotate(query[..., H:], rope)], dim=-1)
        k = torch.cat([latent @ up[:H].T, shared], dim=-1)
        heads.append(attend_plainly(q, k, latent @ up[H:].T, mask[:, 0]))
    expected = torch.cat(heads, dim=-1) @ layer.out.weight.T
    torch.testing.assert_close(layer(u, attend_where(mask)), expected, atol=1e-5, rtol=1e-5)


def test_odd_rotary_width_is_refused():
    with pytest.raises(AssertionError, match="odd head width 3"):
        Rope(3)
