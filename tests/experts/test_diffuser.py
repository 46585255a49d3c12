"""The diffuser: its noise, its evidence, its query mode."""

import math

import pytest
import torch

from nano_think.experts import EXPERTS
from nano_think.experts.diffuser import Diffuser, Noise, doubled_masks, noisy
from nano_think.nn.documents import number_documents
from nano_think.nn.noise import NoiseCode, NoiseLevels, add_noise, bayes_skip, noise_window, signal_and_noise
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_config, tiny_expert, tiny_head


def draw(
    seed: int = 0, size: int = 4, query_share: float = 0.0, B: int = 64, T: int = 24
) -> tuple[Noise, torch.Tensor]:
    """What training draws for windows without document ends: the noise, and the clean embeddings it lies on."""
    expert, head = tiny_diffuser(blocks=(size,), query_share=query_share), tiny_head()
    targets_BT, documents_BT = torch.randint(0, VOCABULARY, (B, T)), torch.zeros(B, T, dtype=torch.long)
    torch.manual_seed(seed)
    block_BT, size = expert._draw_blocks(documents_BT, documents_BT == 0, torch.arange(T + 1))
    return expert._draw_noise(head, targets_BT, block_BT, documents_BT, size)[0], head.embed(targets_BT)


def tiny_diffuser(**more) -> Diffuser:
    expert = tiny_expert("diffuser", infill_share=0.0, **more)
    assert isinstance(expert, Diffuser)
    return expert


def test_signal_and_noise_share_the_variance():
    """z = alpha e + sigma eps with alpha^2 + sigma^2 = 1."""
    log_snr_BT, x_BTD = 6 * torch.rand(64, 24) - 3, torch.randn(64, 24, WIDTH)
    z_BTD = add_noise(x_BTD, log_snr_BT)
    alpha, sigma = signal_and_noise(log_snr_BT)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(sigma), atol=1e-6, rtol=0)
    torch.testing.assert_close((alpha**2 / sigma**2)[..., 0].log(), log_snr_BT, atol=1e-5, rtol=1e-5)
    standard = (z_BTD - alpha * x_BTD) / sigma
    assert standard.mean().abs() < 0.02 and standard.std().item() == pytest.approx(1.0, abs=0.02)
    assert z_BTD.square().mean().item() == pytest.approx(1.0, abs=0.03)


def test_noise_levels_fill_the_window_where_tokens_become_readable():
    low, high = noise_window(1024, 128)
    assert (low + 6, high - 2) == pytest.approx((math.log(2 * math.log(1024) / 128),) * 2)
    assert low + 6 == pytest.approx(-2.2, abs=0.05) and noise_window(32768, 384)[0] + 6 == pytest.approx(-2.9, abs=0.05)
    noise, _ = draw()
    low, high = noise_window(VOCABULARY, WIDTH)
    assert low <= noise.log_snr_BT.min() < low + 0.1 and high - 0.1 < noise.log_snr_BT.max() <= high


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_block_shares_its_level_and_its_kind(size: int):
    noise, _ = draw(size=size, query_share=0.5)
    lengths = torch.bincount(noise.block_BT[0])
    assert (lengths[1:-1] == size).all() and 1 <= lengths[0] <= size
    same_block_BT = noise.block_BT[:, 1:] == noise.block_BT[:, :-1]
    for values in (noise.log_snr_BT, noise.query_BT):
        assert (values[:, 1:] == values[:, :-1])[same_block_BT].all()
    assert not noise.x_BTD[noise.query_BT].any() and noise.x_BTD[~noise.query_BT].any(-1).all()
    assert noise.query_BT.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert noise.log_snr_BT.unique().numel() > 60


def test_blocks_end_with_documents_and_jumps():
    """A start token is a block of its own, and so does no row see that its document ends inside its block."""
    documents_BT = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [0] * 8])
    scored_BT = torch.tensor([[True, True, False, *[True] * 5], [True] * 8])
    expert = tiny_diffuser(blocks=(100,))
    while True:
        block_BT, _ = expert._draw_blocks(documents_BT, scored_BT, torch.arange(9))
        if block_BT[1].max() == 0:
            break
    assert block_BT.tolist() == [[0, 0, 1, 2, 2, 2, 2, 2], [0] * 8]
    order = torch.tensor([0, 1, 2, 6, 7, 8, 3, 4, 5])
    while True:
        block_BT, _ = expert._draw_blocks(documents_BT, scored_BT, order)
        if block_BT[1].max() == 2:
            break
    assert block_BT[1].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


def test_skip_is_the_exact_posterior():
    """softmax(E skip / sqrt(D) + b) = p(v) N(z; alpha e_v, sigma^2) normalised: all rows of E have one length."""
    head, clean_BTD = tiny_head(), tiny_head().embed(torch.randint(0, VOCABULARY, (4, 10)))
    low, high = noise_window(VOCABULARY, WIDTH)
    log_snr_BT = low + (high - low) * torch.rand(4, 10)
    z_BTD = add_noise(clean_BTD, log_snr_BT)
    posterior = head.logits(bayes_skip(z_BTD, log_snr_BT)).softmax(-1)
    alpha, sigma = signal_and_noise(log_snr_BT)
    distance = (z_BTD[:, :, None] - alpha[..., None] * head.table).square().sum(-1)
    brute = (head.bias - distance / (2 * sigma**2)).softmax(-1)
    torch.testing.assert_close(posterior, brute, atol=1e-4, rtol=1e-3)
    assert posterior.max() > 0.9 and posterior.max(-1).values.min() < 0.6
    torch.testing.assert_close(head.expect(bayes_skip(z_BTD, log_snr_BT)), posterior @ head.table, atol=1e-4, rtol=0)


def test_skip_stays_exact_in_half_precision():
    """Its terms reach the hundreds: under autocast it and the logits are computed in fp32 all the same."""
    head, log_snr_BT = tiny_head(), torch.full((2, 9), 2.0)
    z_BTD = add_noise(head.embed(torch.randint(0, VOCABULARY, (2, 9))), log_snr_BT)
    exact = head.logits(bayes_skip(z_BTD, log_snr_BT))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.logits(bayes_skip(z_BTD, log_snr_BT)), exact)


@pytest.mark.parametrize("size", [1, 4])
def test_a_query_carries_no_evidence(size: int):
    """A block of one is always a query."""
    noise, _ = draw(size=size, query_share=float(size > 1))
    assert noise.query_BT.all() and not noise.skip_BTD.any() and not noise.x_BTD.any()


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
    """With blocks of one, training minimises exactly what the mixture uses."""
    expert, head, tokens_BT1 = tiny_diffuser(blocks=(1,)), tiny_head(), draw_tokens(3, 20)
    terms = expert.losses(tokens_BT1, START, head)
    hidden_BTD = expert(head.embed(tokens_BT1[:, :-1]), number_documents(tokens_BT1[:, :-1], START))
    torch.testing.assert_close(terms["query"], head.nll_plainly(hidden_BTD, tokens_BT1[:, 1:]).mean())
    assert terms["denoise"] == 0


def test_terms_are_shares_of_one_mean():
    """query + denoise is the mean over all scored tokens, whatever the draw."""
    expert, head, tokens_BT1 = tiny_diffuser(blocks=(4,), query_share=0.5), tiny_head(), draw_tokens(4, 33)
    torch.manual_seed(3)
    terms = expert.losses(tokens_BT1, START, head)
    torch.manual_seed(3)
    order_T1, documents_BT1 = expert._draw_order(33), number_documents(tokens_BT1, START)
    block_BT, size = expert._draw_blocks(documents_BT1[:, 1:], tokens_BT1[:, 1:] != START, order_T1)
    noise, _ = expert._draw_noise(head, tokens_BT1[:, 1:], block_BT, documents_BT1[:, 1:], size)
    hidden_BTD = expert.denoise(head.embed(tokens_BT1[:, :-1]), documents_BT1[:, :-1], noise) + noise.skip_BTD
    torch.testing.assert_close(sum(terms.values()), head.nll_plainly(hidden_BTD, tokens_BT1[:, 1:]).mean())
    assert terms["query"] > 0 and terms["denoise"] > 0


def test_less_noise_means_less_loss():
    """Even untrained: the skip reads the token off z."""
    torch.manual_seed(0)
    expert, head = EXPERTS["diffuser"](tiny_config("diffuser"), WIDTH), tiny_head()
    targets_BT, inputs_BTD = torch.randint(0, START, (16, 20)), torch.zeros(16, 20, WIDTH)
    documents_BT, block_BT = torch.zeros(16, 20), torch.arange(20).expand(16, -1)
    losses = []
    for level in (-8.0, -2.0, 0.0, 4.0):
        log_snr_BT = torch.full((16, 20), level)
        z_BTD = add_noise(head.embed(targets_BT), log_snr_BT)
        noise = noisy(head, z_BTD, log_snr_BT, log_snr_BT > 99, block_BT, documents_BT)
        hidden = expert.denoise(inputs_BTD, documents_BT, noise) + noise.skip_BTD
        losses.append(head.nll(hidden, targets_BT).mean().item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.1


def test_masks_are_the_rule_written_out():
    """Clean i sees clean j <= i; noisy i sees what precedes its block, and its block; both in one document."""
    block_BT = torch.tensor([[0, 0, 1, 1, 2, 3]])
    clean_BT, noisy_BT = torch.tensor([[1, 1, 1, 1, 2, 2]]), torch.tensor([[1, 1, 1, 1, 2, 2]])
    clean, noisy = (mask[0, 0] for mask in doubled_masks(clean_BT, noisy_BT, block_BT))
    first = [0, 0, 2, 2, 4, 5]
    for i in range(6):
        for j in range(6):
            same = bool(clean_BT[0, i] == clean_BT[0, j])
            assert clean[i, j] == (same and j <= i)
            assert noisy[i, j] == (same and j <= first[i]), (i, j)
            assert noisy[i, 6 + j] == (block_BT[0, i] == block_BT[0, j])


def test_levels_are_drawn_where_the_loss_falls():
    """An inverse distribution function; where the loss falls by more, draws are denser, and a fifth is everywhere."""
    levels = NoiseLevels(knots=5, everywhere=0.2, rate=1.0)
    share = torch.linspace(0, 1, 101)
    torch.testing.assert_close(levels.place(share), share, atol=1e-5, rtol=0)
    place = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    levels.learn(place, torch.tensor([4.0, 4.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(levels.nll_L, torch.tensor([4.0, 4.0, 1.0, 1.0, 0.0]))
    drawn = levels.place(torch.linspace(0.0005, 0.9995, 1000))
    assert (drawn[1:] > drawn[:-1]).all() and 0 < drawn[0] < drawn[-1] < 1
    parts = torch.histc(drawn, 4, 0, 1) / 1000
    torch.testing.assert_close(parts, torch.tensor([0.05, 0.65, 0.05, 0.25]), atol=0.002, rtol=0)


def test_levels_follow_the_loss_in_training_alone():
    expert, head, tokens_BT1 = tiny_diffuser(blocks=(4,)), tiny_head(), draw_tokens(4, 33)
    before = expert.levels.nll_L.clone()
    expert.losses(tokens_BT1, START, head)
    assert torch.equal(expert.levels.nll_L, before)
    expert.train().losses(tokens_BT1, START, head)
    assert not torch.equal(expert.levels.nll_L, before) and "levels.nll_L" in expert.state_dict()


def test_infilling_reads_a_stretch_after_what_follows_it():
    """Every token once, each row where its token stands in the text."""
    expert, positions = tiny_expert("diffuser", infill_share=1.0), []
    assert isinstance(expert, Diffuser)
    for _ in range(20):
        order = expert._draw_order(30)
        jumps = (order[1:] != order[:-1] + 1).sum()
        assert order.sort().values.tolist() == list(range(30)) and order[0] == 0 and jumps <= 2
    expert.rope.register_forward_pre_hook(lambda module, args: positions.append(args[0]))
    torch.manual_seed(3)
    order = expert._draw_order(30)
    torch.manual_seed(3)
    expert.losses(draw_tokens(2, 30), START, tiny_head())
    assert torch.equal(positions[0], torch.cat([order[:-1], order[1:]])) and (order != torch.arange(30)).any()


def test_a_noisy_row_stands_where_its_target_will_be():
    """Row t of the noisy half is token t + 1, one position behind its clean row."""
    expert, positions = tiny_expert("diffuser"), []
    expert.rope.register_forward_pre_hook(lambda module, args: positions.append(args[0].tolist()))
    expert(torch.randn(1, 4, WIDTH), torch.zeros(1, 4))
    assert positions == [[0, 1, 2, 3, 1, 2, 3, 4]]


def test_code_tells_queries_and_levels_apart():
    code = NoiseCode(8)
    codes = code(torch.tensor([[-4.0, -1.0, 2.0, 2.0]]), torch.tensor([[False, False, False, True]]))[0]
    assert torch.equal(codes[3], code.query) and torch.pdist(torch.cat([codes, code.clean[None]])).min() > 0.1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", 7),
        ("code", 0),
        ("blocks", ()),
        ("blocks", (1, 0)),
        ("query_share", 1.5),
        ("next_token_share", -0.1),
        ("infill_share", 2.0),
    ],
)
def test_impossible_settings_are_refused(field: str, value):
    with pytest.raises(ValueError, match=field):
        EXPERTS["diffuser"].Config(**{field: value})
