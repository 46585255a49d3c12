"""What a training will need, before it starts: FLOPs against formulas, memory against what is really kept."""

import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nano_think.core.errors import UsageError
from nano_think.experts import build_expert
from nano_think.nn.attention import attend_where, counting_attention
from nano_think.training import estimate as estimate_module
from nano_think.training import layers, machine
from nano_think.training.estimate import Estimate, estimate, format_bytes, refuse_too_large, try_step
from nano_think.training.layers import checkpoint_layers, compile_layers
from nano_think.training.machine import free_memory, gemm_rate
from nano_think.training.objectives import Objective
from nano_think.training.objectives.expert import ExpertObjective
from nano_think.training.optim import OptimConfig, build_optimizers
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_config, tiny_head
from tests.tiny_training import OBJECTIVES, make_calm, make_objective

T = 24


def look(objective: Objective, accelerator: Accelerator, windows: int = 4, checkpointed: bool = False) -> Estimate:
    return estimate(objective, draw_tokens(1, T + 1)[0], windows, OptimConfig(), checkpointed, accelerator)


def test_flops_of_a_transformer_are_those_of_the_formula(accelerator: Accelerator):
    """6 for each number in a matrix and token, 4 for each of the frozen head's, which has no gradient of its own, and
    attention over the pairs of tokens that see each other, T (T + 1) / 2: 4 D forward and 8 D backward, per layer.
    """
    objective = make_calm("transformer")
    matrices = sum(m.weight.numel() for m in objective.modules() if isinstance(m, nn.Linear))
    attention = 2 * (12 * WIDTH * (T + 1) / 2)
    assert look(objective, accelerator).flops_per_token == 6 * matrices + 4 * WIDTH * VOCABULARY + attention


def test_attention_that_is_not_differentiated_has_no_backward_pass():
    q_BNTH = torch.randn(1, 2, 4, 8)
    mask_BNTS = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    with counting_attention() as counts:
        attend = attend_where(mask_BNTS)
        attend(q_BNTH, q_BNTH, q_BNTH)
        attend(q_BNTH.requires_grad_(), q_BNTH, q_BNTH)
        with torch.no_grad():
            attend(q_BNTH, q_BNTH, q_BNTH)
    forward = 2 * (8 + 8) * 2 * 10
    assert counts == [forward, 3 * forward, forward]


def test_long_windows_are_reckoned_from_short_ones(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch):
    """Attention grows with the square of the tokens, the rest in proportion."""
    whole = look(make_calm("transformer"), accelerator)
    monkeypatch.setattr(estimate_module, "MOST_TOKENS", T // 2)
    part = look(make_calm("transformer"), accelerator)
    assert part.flops_per_token == pytest.approx(whole.flops_per_token, rel=0.01)
    assert part.activation_bytes == pytest.approx(whole.activation_bytes, rel=0.15)


def kept_bytes(objective: Objective, B: int, accelerator: Accelerator) -> int:
    """What autograd really keeps of a forward pass over B windows, without weights and what belongs to the model."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = torch.stack(list(objective.train()(draw_tokens(B, T + 1), 0.0).values())).sum()
    for tensor in (*objective.parameters(), *objective.buffers()):
        held.pop(tensor.untyped_storage().data_ptr(), None)
    loss.backward()
    return sum(held.values())


@pytest.mark.parametrize("name", ["transformer", "diffuser", "state_space", "embedding"])
def test_activations_are_those_that_are_kept(name: str, accelerator: Accelerator):
    """From one window to eight, within a quarter; what does not grow with the windows is little."""
    expected = look(make_calm(name), accelerator, windows=8).activation_bytes
    assert expected == pytest.approx(kept_bytes(make_calm(name), 8, accelerator), rel=0.25)


def test_checkpointed_layers_need_less(accelerator: Accelerator):
    """Inputs of all layers, and one layer computed again."""
    config = tiny_config("transformer", n_layers=6)
    objective = ExpertObjective(build_expert("transformer", config, WIDTH), tiny_head(), START)
    plain, less = (look(objective, accelerator, 8, checkpointed) for checkpointed in (False, True))
    checkpoint_layers(objective)
    inputs_and_outside = kept_bytes(objective, 8, accelerator)
    assert inputs_and_outside < less.activation_bytes < 0.5 * plain.activation_bytes
    assert less.flops_per_token == plain.flops_per_token


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_and_moments_are_counted(name: str, accelerator: Accelerator):
    """As many bytes as the optimisers hold after a step, and a gradient for each number."""
    objective = make_objective(name)
    counted = look(objective, accelerator).state_bytes
    assert all(parameter.grad is None for parameter in objective.parameters())
    optimizers = build_optimizers(objective, OptimConfig())
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    states = [item for one in optimizers for state in one.state.values() for item in state.items()]
    held = sum(value.nbytes for name, value in states if name != "step")
    assert counted == held + sum(parameter.nbytes for parameter in learning)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_looking_ahead_leaves_nothing(name: str, accelerator: Accelerator):
    """Neither a gradient nor a moving average: a training begins where it would have begun."""
    objective = make_objective(name)
    before = {path: value.clone() for path, value in objective.state_dict().items()}
    look(objective, accelerator)
    assert all(torch.equal(value, before[path]) for path, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch):
    """In all processes that share the memory together; nothing is refused where nobody knows what is free, nor where
    people insist.
    """
    needed = Estimate(flops_per_token=1.0, state_bytes=2_000_000_000, activation_bytes=4_000_000_000)
    refuse_too_large(needed, 1, 6_000_000_000)
    refuse_too_large(needed, 9, None)
    said = "needs about 12.0 GB of memory (8.0 GB of it for activations), and 11.9 GB are free; raise accumulate"
    with pytest.raises(UsageError, match=re.escape(said)):
        refuse_too_large(needed, 2, 11_900_000_000)
    monkeypatch.setenv("NANO_THINK_NO_MEMORY_CHECK", "1")
    refuse_too_large(needed, 2, 11_900_000_000)
    assert [format_bytes(count) for count in (5e5, 1.24e9)] == ["0 MB", "1.2 GB"]


def test_free_memory_is_known():
    free = free_memory(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


def test_a_containers_limit_counts(tmp_path: Path):
    """What the group may still have, caches given back; without a limit, nothing is said."""
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 90\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert machine._left_in_group(tmp_path) == 390
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._left_in_group(tmp_path) is None and machine._left_in_group(tmp_path / "none") is None


def test_available_memory_is_read_off_the_system(tmp_path: Path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5 kB\n")
    assert machine._available(tmp_path / "meminfo") == 5 * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_of_a_matrix_product_is_that_of_the_median(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """2 M K N operations over the median time of all runs but the first two."""
    warm_up, runs = [0.0, 9.0] * 2, [t for run in range(9) for t in (0.0, 0.02 + 0.001 * (run - 4), 0.0)]
    times = iter([0.0, *warm_up, *runs])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(machine, "GEMM_SECONDS", 1.0)
    assert gemm_rate(torch.device("cpu"), dtype) == pytest.approx(2 * 2048 * 384 * 1536 / 0.02)


def test_compilation_that_fails_leaves_everything_as_it_was(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch):
    """One line says so, and the layers compute what they did."""
    objective, tokens = make_calm("transformer"), draw_tokens(2, T + 1)
    before = objective(tokens, 0.0)["next_token"]

    def broken(forward):
        def fail(*_):
            raise RuntimeError("no working C++ compiler was found\nmore")

        return fail

    monkeypatch.setattr(layers.torch, "compile", broken)
    told = compile_layers(objective, lambda: try_step(objective, tokens, accelerator))
    assert told == "off (it failed: RuntimeError: no working C++ compiler was found)"
    assert torch.equal(objective(tokens, 0.0)["next_token"], before)
    assert compile_layers(nn.Linear(2, 2), lambda: None) == "off (there are no layers that repeat)"


def gradients(compiled: bool, checkpointed: bool, accelerator: Accelerator) -> dict[str, Tensor]:
    """Of a small transformer, through the whole front end of the compiler but without its slow back end."""
    objective, tokens, plain = make_calm("transformer"), draw_tokens(2, T + 1), torch.compile
    if compiled:
        torch._dynamo.reset()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers.torch, "compile", lambda forward: plain(forward, backend="aot_eager"))
            told = compile_layers(objective, lambda: try_step(objective, tokens, accelerator))
        assert re.fullmatch(r"on \(2 layers in \d+ s\)", told), told
    if checkpointed:
        checkpoint_layers(objective)
    objective(tokens, 0.0)["next_token"].backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:::torch")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_layers_are_compiled_each_by_itself(checkpointed: bool, accelerator: Accelerator):
    """The plain gradients within a millionth."""
    results = [gradients(compiled, checkpointed, accelerator) for compiled in (False, True)]
    torch._dynamo.reset()
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=1e-6)
