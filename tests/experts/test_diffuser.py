"""The diffuser: its noise, its evidence, its query mode."""

import math

import pytest
import torch

from nano_think.experts import EXPERTS
from nano_think.experts.diffuser import Diffuser, Noise, NoiseCode, bayes_skip, doubled_masks, noise_window
from nano_think.nn.documents import number_documents
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_config, tiny_expert, tiny_head


def draw(
    seed: int = 0, size: int = 1, query_share: float = 0.0, B: int = 64, T: int = 24
) -> tuple[Noise, torch.Tensor]:
    expert, head = tiny_expert("diffuser", blocks=(size,), query_share=query_share), tiny_head()
    assert isinstance(expert, Diffuser)
    target_BTD = head.embed(torch.randint(0, VOCABULARY, (B, T)))
    torch.manual_seed(seed)
    return expert.draw_noise(target_BTD, head.table.shape), target_BTD


def test_signal_and_noise_share_the_variance():
    """z = alpha e + sigma eps with alpha^2 + sigma^2 = 1: read back from the draws themselves."""
    noise, target_BTD = draw()
    alpha = noise.log_snr_BT.sigmoid().sqrt()
    rest_BTD = noise.z_BTD - alpha[..., None] * target_BTD
    sigma2 = (-noise.log_snr_BT).sigmoid()
    torch.testing.assert_close(alpha**2 + sigma2, torch.ones_like(sigma2), atol=1e-6, rtol=0)
    standard = rest_BTD / sigma2.sqrt()[..., None]
    assert standard.mean().abs() < 0.02 and standard.std().item() == pytest.approx(1.0, abs=0.02)
    assert noise.z_BTD.square().mean().item() == pytest.approx(1.0, abs=0.03)


def test_noise_levels_fill_the_window_where_tokens_become_readable():
    low, high = noise_window(1024, 128)
    assert (low + 6, high - 2) == pytest.approx((math.log(2 * math.log(1024) / 128),) * 2)
    assert low + 6 == pytest.approx(-2.2, abs=0.05) and noise_window(32768, 384)[0] + 6 == pytest.approx(-2.9, abs=0.05)
    noise, _ = draw()
    low, high = noise_window(VOCABULARY, WIDTH)
    assert low <= noise.log_snr_BT.min() < low + 0.1 and high - 0.1 < noise.log_snr_BT.max() <= high


@pytest.mark.parametrize("size", [1, 4, 8])
def test_a_block_shares_its_level_and_its_kind(size: int):
    noise, _ = draw(size=size, query_share=0.5)
    lengths = torch.bincount(noise.block_T - noise.block_T[0])
    assert (lengths[1:-1] == size).all() and 1 <= lengths[0] <= size
    for name in ("log_snr_BT", "query_BT"):
        values = getattr(noise, name)
        same_block = noise.block_T[1:] == noise.block_T[:-1]
        assert (values[:, 1:] == values[:, :-1])[:, same_block].all()
    assert (noise.z_BTD[noise.query_BT] == 0).all()
    assert noise.query_BT.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert noise.log_snr_BT.unique().numel() > 60


def test_skip_is_the_exact_posterior():
    """softmax(E skip / sqrt(D) + b) = p(v) N(z; alpha e_v, sigma^2) normalised: all rows of E have one length."""
    head, (noise, _) = tiny_head(), draw(B=4, T=10)
    posterior = head.logits(bayes_skip(noise, WIDTH)).softmax(-1)
    alpha, sigma2 = noise.log_snr_BT.sigmoid().sqrt(), (-noise.log_snr_BT).sigmoid()
    distance = (noise.z_BTD[:, :, None] - alpha[..., None, None] * head.table).square().sum(-1)
    brute = (head.bias - distance / (2 * sigma2[..., None])).softmax(-1)
    torch.testing.assert_close(posterior, brute, atol=1e-4, rtol=1e-3)
    assert posterior.max() > 0.9 and posterior.max(-1).values.min() < 0.6


def test_a_query_carries_no_evidence():
    noise, _ = draw(query_share=1.0)
    assert noise.query_BT.all() and not bayes_skip(noise, WIDTH).any()


def test_query_mode_draws_nothing():
    """The fusion hidden is a function of the tokens: neither the seed nor training mode moves it."""
    expert, head, tokens_BT = tiny_expert("diffuser"), tiny_head(), draw_tokens(2, 12)
    documents_BT = number_documents(tokens_BT, START)
    hidden = []
    with torch.no_grad():
        for seed in (1, 2):
            torch.manual_seed(seed)
            hidden.append(expert.train(seed == 2)(head.embed(tokens_BT), documents_BT))
    assert torch.equal(*hidden)


def test_query_loss_is_the_loss_of_query_mode():
    """With blocks of one and queries alone, training minimises exactly what the mixture uses."""
    expert, head = tiny_expert("diffuser", blocks=(1,), query_share=1.0), tiny_head()
    tokens_BT1 = draw_tokens(3, 20)
    terms = expert.losses(tokens_BT1, START, head)
    hidden_BTD = expert(head.embed(tokens_BT1[:, :-1]), number_documents(tokens_BT1[:, :-1], START))
    torch.testing.assert_close(terms["query"], head.nll_plainly(hidden_BTD, tokens_BT1[:, 1:]).mean())
    assert terms["denoise"] == 0


def test_terms_are_shares_of_one_mean():
    """query + denoise is the mean over all scored tokens, whatever the draw."""
    expert, head = tiny_expert("diffuser", blocks=(4,)), tiny_head()
    tokens_BT1 = draw_tokens(4, 33)
    torch.manual_seed(3)
    terms = expert.losses(tokens_BT1, START, head)
    torch.manual_seed(3)
    noise = expert.draw_noise(head.embed(tokens_BT1[:, 1:]), head.table.shape)
    hidden_BTD = expert.denoise(
        head.embed(tokens_BT1[:, :-1]), number_documents(tokens_BT1[:, :-1], START), noise
    ) + bayes_skip(noise, WIDTH)
    torch.testing.assert_close(sum(terms.values()), head.nll_plainly(hidden_BTD, tokens_BT1[:, 1:]).mean())
    assert terms["query"] > 0 and terms["denoise"] > 0


def test_less_noise_means_less_loss():
    """Even untrained: the skip reads the token off z."""
    torch.manual_seed(0)
    expert, head = EXPERTS["diffuser"](tiny_config("diffuser"), WIDTH), tiny_head()
    targets_BT, inputs_BTD = torch.randint(0, START, (16, 20)), torch.zeros(16, 20, WIDTH)
    losses = []
    for level in (-8.0, -2.0, 0.0, 4.0):
        log_snr_BT = torch.full((16, 20), level)
        alpha, sigma = log_snr_BT.sigmoid().sqrt()[..., None], (-log_snr_BT).sigmoid().sqrt()[..., None]
        z = alpha * head.embed(targets_BT) + sigma * torch.randn(16, 20, WIDTH)
        noise = Noise(z, log_snr_BT, log_snr_BT > 99, torch.arange(20))
        hidden = expert.denoise(inputs_BTD, torch.zeros(16, 20), noise) + bayes_skip(noise, WIDTH)
        losses.append(head.nll(hidden, targets_BT).mean().item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.1


def test_masks_are_the_rule_written_out():
    """Clean i sees clean j <= i; noisy i sees what precedes its block, and its block; both in one document."""
    block_T = torch.tensor([0, 0, 1, 1, 1, 2])
    documents_BT = torch.tensor([[1, 1, 1, 1, 2, 2]])
    clean, noisy = (mask[0, 0] for mask in doubled_masks(documents_BT, block_T))
    first = [0, 0, 2, 2, 2, 5]
    for i in range(6):
        for j in range(6):
            same = bool(documents_BT[0, i] == documents_BT[0, j])
            assert clean[i, j] == (same and j <= i)
            assert noisy[i, j] == (same and j <= first[i]), (i, j)
            assert noisy[i, 6 + j] == (same and block_T[i] == block_T[j])


def test_a_noisy_row_stands_where_its_target_will_be():
    """Row t of the noisy half is token t + 1, one position behind its clean row."""
    expert, positions = tiny_expert("diffuser"), []
    expert.rope.register_forward_pre_hook(lambda module, args: positions.append(args[0].tolist()))
    expert(torch.randn(1, 4, WIDTH), torch.zeros(1, 4))
    assert positions == [[0, 1, 2, 3, 1, 2, 3, 4]]


def test_code_tells_clean_query_and_levels_apart():
    code = NoiseCode(8)
    log_snr_BT = torch.tensor([[-4.0, -1.0, 2.0, 2.0]])
    codes = code(log_snr_BT, torch.tensor([[False, False, False, True]]))[0]
    assert torch.equal(codes[0], codes[3]) and torch.equal(codes[7], code.query)
    assert torch.pdist(codes[3:]).min() > 0.1


@pytest.mark.parametrize(
    ("field", "value"),
    [("code", 7), ("code", 0), ("blocks", ()), ("blocks", (1, 0)), ("query_share", 1.5), ("next_token_share", -0.1)],
)
def test_impossible_settings_are_refused(field: str, value):
    with pytest.raises(ValueError, match=field):
        EXPERTS["diffuser"].Config(**{field: value})
