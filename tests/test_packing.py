"""Documents that share a window do not see each other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nano_think.experts.diffuser import Diffuser
from nano_think.nn import documents as documents_module
from nano_think.nn import s6, ssm
from nano_think.nn.causal_conv import CausalConv
from nano_think.nn.documents import document_starts, number_documents, running_mean
from nano_think.nn.ssm import scan_in_chunks
from tests.tiny import MODELS, START, VARIANTS, WIDTH, draw_tokens, tiny_expert, tiny_head, tiny_mixture, tiny_model

SECOND, T = 19, 40
TOLERANCE = 1e-4


def other_first_document(tokens_BT: Tensor) -> Tensor:
    """The same second document behind another first one."""
    changed_BT = draw_tokens(*tokens_BT.shape, seed=5)
    changed_BT[:, SECOND:] = tokens_BT[:, SECOND:]
    return changed_BT


def assert_apart(function: Callable[[Tensor], Tensor]) -> None:
    tokens_BT = draw_tokens(2, T, starts=(0, SECOND))
    with torch.no_grad():
        one, other = function(tokens_BT), function(other_first_document(tokens_BT))
    assert not torch.allclose(one[:, 1:SECOND], other[:, 1:SECOND], atol=TOLERANCE), "the change changes nothing"
    torch.testing.assert_close(one[:, SECOND:], other[:, SECOND:], atol=TOLERANCE, rtol=0)


def run_expert(name: str) -> Callable[[Tensor], Tensor]:
    expert, head = tiny_expert(name), tiny_head()
    return lambda tokens_BT: expert(head.embed(tokens_BT), number_documents(tokens_BT, START))


@pytest.mark.parametrize("name", VARIANTS)
def test_expert_keeps_documents_apart(name: str):
    assert_apart(run_expert(name))


@pytest.mark.parametrize("name", MODELS)
def test_model_keeps_documents_apart(name: str):
    model = tiny_model(name)
    assert_apart(lambda tokens_BT: model(tokens_BT).hidden)


def run_noisy_blocks(size: int, infill: float) -> Callable[[Tensor], Tensor]:
    """What the diffuser's training computes for the noisy rows: the same draws for every text."""
    expert, head = tiny_expert("diffuser", blocks=(size,), query_share=0.3, infill_share=infill), tiny_head()
    assert isinstance(expert, Diffuser)

    def run(tokens_BT: Tensor) -> Tensor:
        torch.manual_seed(2)
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            denoise = expert.denoise
            patch.setattr(expert, "denoise", lambda *args: seen.append((args[3], denoise(*args))) or seen[-1][1])
            expert.losses(tokens_BT, START, head)
        order, hidden_BTD = seen[0]
        return torch.zeros(2, T, WIDTH).index_copy_(1, order[1:], hidden_BTD)

    return run


@pytest.mark.parametrize("infill", [0.0, 1.0])
@pytest.mark.parametrize("size", [4, 16, 100])
def test_noisy_blocks_keep_documents_apart(size: int, infill: float):
    """Noisy rows see each other, in training in any order: still none sees another document."""
    run = run_noisy_blocks(size, infill)
    tokens_BT = draw_tokens(2, T, starts=(0, SECOND))
    other_BT = draw_tokens(2, T, starts=(0, SECOND), seed=5)
    other_BT[:, :SECOND] = tokens_BT[:, :SECOND]
    with torch.no_grad():
        assert_apart(run)
        torch.testing.assert_close(run(other_BT)[:, 1:SECOND], run(tokens_BT)[:, 1:SECOND], atol=TOLERANCE, rtol=0)


def test_routing_weights_keep_documents_apart():
    model = tiny_mixture("mean")
    assert_apart(lambda tokens_BT: model(tokens_BT).weights)


@pytest.mark.parametrize("taps", [2, 4, 60])
def test_convolution_keeps_documents_apart(taps: int):
    head, conv = tiny_head(), CausalConv(WIDTH, taps)
    assert_apart(lambda tokens_BT: conv(head.embed(tokens_BT), number_documents(tokens_BT, START)))


@pytest.mark.parametrize("chunk", [1, 8, SECOND, 64])
def test_scan_keeps_documents_apart(chunk: int):
    head = tiny_head()
    dt, A, BC = torch.rand(2, T, 2), torch.tensor([-0.01, -1.0]), torch.randn(2, T, 4)

    def run(tokens_BT: Tensor) -> Tensor:
        x_BTGP = head.embed(tokens_BT).unflatten(-1, (2, -1))
        return scan_in_chunks(x_BTGP, dt, A, BC, BC, number_documents(tokens_BT, START), chunk)

    assert_apart(run)


def test_running_mean_keeps_documents_apart():
    head = tiny_head()
    assert_apart(lambda tokens_BT: running_mean(head.embed(tokens_BT), number_documents(tokens_BT, START)))


def one_document(tokens_BT: Tensor, start_token: int) -> Tensor:
    return torch.zeros_like(tokens_BT)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_lost_boundary_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    """Without document numbers every expert mixes what should be apart: the tests above can fail."""
    monkeypatch.setitem(globals(), "number_documents", one_document)
    with pytest.raises(AssertionError, match="not close"):
        assert_apart(run_expert(name))


def test_a_state_that_is_not_emptied_is_noticed(monkeypatch: pytest.MonkeyPatch):
    whole = ssm._read_state
    monkeypatch.setattr(ssm, "_read_state", lambda state, decay, C, same: whole(state, decay, C, same | True))
    with pytest.raises(AssertionError, match="not close"):
        assert_apart(run_expert("state_space"))


def test_an_s6_state_that_is_not_emptied_is_noticed(monkeypatch: pytest.MonkeyPatch):
    whole = s6.document_changes
    monkeypatch.setattr(s6, "document_changes", lambda documents_BT, *last: whole(documents_BT, *last) & False)
    with pytest.raises(AssertionError, match="not close"):
        assert_apart(run_expert("state_space s6"))


def test_documents_are_numbered_and_found():
    tokens_BT = torch.tensor([[3, 9, 4, 9, 9, 5]])
    documents_BT = number_documents(tokens_BT, start_token=9)
    assert documents_BT.tolist() == [[0, 1, 1, 2, 3, 3]]
    assert document_starts(documents_BT).tolist() == [[0, 1, 1, 3, 4, 4]]


def test_running_mean_is_the_loop():
    """Twin: the mean over the document so far, one position after another."""
    x_BTD = torch.randn(3, 23, 5)
    documents_BT = (torch.rand(3, 23) < 0.2).cumsum(1)
    looped = torch.stack([
        torch.stack([x[: t + 1][d[: t + 1] == d[t]].mean(0) for t in range(len(x))])
        for x, d in zip(x_BTD, documents_BT, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(documents_module.running_mean(x_BTD, documents_BT), looped, atol=1e-5, rtol=1e-5)
    alone = documents_module.running_mean(x_BTD, torch.zeros_like(documents_BT))
    torch.testing.assert_close(alone[:, -1], x_BTD.mean(1), atol=1e-6, rtol=1e-5)
