"""What holds for every registered expert, a new one included."""

import dataclasses

import pytest
import torch

from nano_think.experts import EXPERTS, Expert, ExpertConfig, build_expert, count_parameters, masked_mean
from tests.tiny import START, VARIANTS, VOCABULARY, WIDTH, draw_tokens, tiny_config, tiny_expert, tiny_head


def test_the_three_experts_are_there():
    assert {"transformer", "diffuser", "state_space"} <= set(EXPERTS)
    assert list(EXPERTS) == sorted(EXPERTS)
    assert {*EXPERTS, "state_space s6"} <= set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_class_and_configuration_fit_the_contract(name: str):
    kind = EXPERTS[name.split()[0]]
    assert issubclass(kind, Expert) and issubclass(kind.Config, ExpertConfig)
    expert = build_expert(name.split()[0], tiny_config(name), WIDTH)
    hidden_BTD = expert(torch.randn(2, 11, WIDTH), torch.zeros(2, 11, dtype=torch.long))
    assert hidden_BTD.shape == (2, 11, WIDTH) and not hidden_BTD.any()
    buffers = {path for path, _ in expert.named_buffers()}
    saved = {path: tensor.numel() for path, tensor in expert.state_dict().items() if path not in buffers}
    assert count_parameters(expert) == sum(saved.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_training_starts_at_the_unigram_distribution(name: str):
    """The last matrix is zero, so the first loss is that of the bias alone, or better where noise tells something."""
    torch.manual_seed(0)
    expert, head = build_expert(name.split()[0], tiny_config(name), WIDTH), tiny_head()
    tokens_BT1 = draw_tokens(8, 33)
    unigram = -head.bias[tokens_BT1[:, 1:]].mean()
    assert sum(expert.losses(tokens_BT1, START, head).values()) < unigram + 0.01


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_gets_a_finite_gradient(name: str):
    """With the zeros randomised and enough draws of whatever the loss draws, nothing is left out."""
    expert, head = tiny_expert(name), tiny_head()
    tokens_BT1 = draw_tokens(4, 33, starts=(0, 13))
    for _ in range(6):
        terms = expert.losses(tokens_BT1, START, head)
        assert all(term.isfinite() and term.shape == () for term in terms.values())
        sum(terms.values()).backward()
    for path, parameter in expert.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), path
        assert parameter.grad.any(), f"{path} does not matter"


@pytest.mark.parametrize("name", VARIANTS)
def test_dropout_acts_in_training_alone(name: str):
    expert, x = tiny_expert(name, dropout=0.5), torch.randn(1, 9, WIDTH)
    documents_BT = torch.zeros(1, 9, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(expert(x, documents_BT), expert(x, documents_BT))
        expert.train()
        assert not torch.equal(expert(x, documents_BT), expert(x, documents_BT))


@pytest.mark.parametrize("name", VARIANTS)
def test_start_tokens_are_never_scored(name: str):
    """A window whose targets are start tokens alone has no loss and no gradient, and no NaN."""
    expert, head = tiny_expert(name), tiny_head()
    loss = sum(expert.losses(torch.full((2, 9), START), START, head).values())
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in expert.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize(("field", "value"), [("n_layers", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_impossible_shapes_are_refused(name: str, field: str, value: float):
    with pytest.raises(ValueError, match=field):
        EXPERTS[name].Config(**{field: value})


@pytest.mark.parametrize("name", EXPERTS)
def test_every_setting_has_a_default(name: str):
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(EXPERTS[name].Config))


def test_masked_mean_counts_what_is_true():
    values, mask = torch.tensor([1.0, 2.0, 30.0]), torch.tensor([True, True, False])
    assert masked_mean(values, mask) == 1.5 and masked_mean(values, ~mask & mask) == 0


def test_windows_of_one_token_work():
    head = tiny_head()
    for name in VARIANTS:
        loss = sum(tiny_expert(name).losses(torch.tensor([[START, 3]]), START, head).values())
        assert loss.isfinite() and loss > 0, name
    assert len(head.table) == VOCABULARY
