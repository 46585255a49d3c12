"""What is measured in one process, with one number of threads."""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _timing import Step, make_product, medians, take_turns
from torch import Tensor, nn

from nano_think.core.device import ComputeConfig, set_up
from nano_think.experts.diffuser import DiffuserConfig
from nano_think.training.optim import OptimConfig, build_optimizers
from train_ways import muon, ours, peers
from train_ways.shape import Shape, matrix_parameters, step_flops

RATE, STEPS_OF_PARITY = 3e-4, 20


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for, by name; seconds, rates (FLOP/s) and ratios."""
    (threads,) = args.threads
    torch.set_num_threads(threads)
    shape, found = Shape(**args.shape), {"threads": threads, "torch": torch.__version__}
    for part in args.parts:
        torch.manual_seed(0)
        found |= MEASURES[part](shape, args.rounds)
    return found


@functools.cache
def find_our_matmul() -> tuple[str, str]:
    """How torch routes fp32 products and how nano_think does; found once, since the check costs as much as a layer."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    set_up(ComputeConfig(), torch.device("cpu"))
    ours_is, matmul.fp32_precision = matmul.fp32_precision, before
    return before, ours_is


@contextlib.contextmanager
def our_matmul() -> Iterator[None]:
    """fp32 products as nano_think routes them; the peers' are left as torch has them."""
    before, ours_is = find_our_matmul()
    torch.backends.mkldnn.matmul.fp32_precision = ours_is
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def draw_tokens(shape: Shape) -> Tensor:
    return torch.randint(shape.vocabulary, (shape.batch, shape.window + 1))


def make_step(
    model: nn.Module, shape: Shape, dtype: str, is_ours: bool, optimizers: list[torch.optim.Optimizer] | None = None
) -> Callable[[], float]:
    """A training step of a model from windows to its loss; fused AdamW, unless optimisers are given."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tokens_BT1 = draw_tokens(shape)
    chosen = optimizers or [torch.optim.AdamW(parameters, lr=RATE, fused=True)]

    def step() -> float:
        with our_matmul() if is_ours else contextlib.nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = model(tokens_BT1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in chosen:
                optimizer.step()
                optimizer.zero_grad()
            return loss.detach().item()

    return step


def build_pair(shape: Shape) -> tuple[nn.Module, nn.Module]:
    """Hugging Face's Llama, and ours with its architecture and weights."""
    peer, model = peers.Llama(shape), ours.build_llama(shape)
    ours.copy_llama(model, peer)
    return peer, model


def measure_step(shape: Shape, rounds: int) -> dict[str, float]:
    """Steps of the transformer and the diffuser, and a bf16 product between them."""
    product, product_flops = make_product(torch.bfloat16)
    peer, llama = build_pair(shape)
    expert, with_muon = (ours.Shipped(ours.build_transformer(shape), shape) for _ in range(2))
    diffusers = {share: ours.Shipped(ours.build_diffuser(shape, share), shape) for share in (0.0, 1.0)}
    ways: dict[str, Step] = {
        "product": product,
        "hf_llama_bf16": make_step(peer, shape, "bfloat16", is_ours=False),
        "llama_bf16": make_step(llama, shape, "bfloat16", is_ours=True),
        "shipped": make_step(expert, shape, "bfloat16", is_ours=True),
        "shipped_muon": make_step(
            with_muon, shape, "bfloat16", is_ours=True, optimizers=build_optimizers(with_muon, OptimConfig())
        ),
        "diffuser_blocks": make_step(diffusers[0.0], shape, "bfloat16", is_ours=True),
        "diffuser_tokens": make_step(diffusers[1.0], shape, "bfloat16", is_ours=True),
    }
    taken = medians(take_turns(ways, rounds))
    share = DiffuserConfig().next_token_share
    taken["diffuser"] = share * taken["diffuser_tokens"] + (1 - share) * taken["diffuser_blocks"]
    rate = product_flops / taken.pop("product")
    mfu = {
        "hf_llama": step_flops(peer, shape) / taken["hf_llama_bf16"] / rate,
        "llama": step_flops(llama, shape) / taken["llama_bf16"] / rate,
        "shipped": step_flops(expert, shape, frozen_head=True) / taken["shipped"] / rate,
        "diffuser": step_flops(diffusers[1.0], shape, rows=2, frozen_head=True) / taken["diffuser"] / rate,
    }
    return {
        "bf16_product_flops_per_second": rate,
        **{f"seconds.{name}": seconds for name, seconds in taken.items()},
        **{f"mfu.{name}": value for name, value in mfu.items()},
        "ratio.transformer_vs_hf_llama_bf16": taken["hf_llama_bf16"] / taken["llama_bf16"],
        "ratio.shipped_vs_hf_llama_bf16": taken["hf_llama_bf16"] / taken["shipped"],
        "ratio.mfu": mfu["llama"],
        "ratio.diffuser_vs_transformer_mfu": mfu["diffuser"] / mfu["shipped"],
        "muon_adds_to_a_step": taken["shipped_muon"] / taken["shipped"] - 1,
    }


def build_mamba_pair(shape: Shape) -> tuple[nn.Module, nn.Module]:
    """mambapy's stack, and ours with its weights."""
    peer, model = peers.MambaPy(shape), ours.build_mamba(shape)
    for mixer, norm, layer in zip(model.expert.mixers, model.expert.norms, peer.stack.layers, strict=True):
        ours.copy_mamba(mixer, layer.mixer)
        norm.load_state_dict(layer.norm.state_dict())
    model.expert.norm.load_state_dict(peer.norm.state_dict())
    model.load_state_dict({"table": peer.table}, strict=False)
    return peer, model


def measure_state_space(shape: Shape, rounds: int) -> dict[str, float]:
    """A step in fp32 of mambapy and of both our forms."""
    peer, model = build_mamba_pair(shape)
    ways = {
        "mambapy": make_step(peer, shape, "float32", is_ours=False),
        "s6": make_step(model, shape, "float32", is_ours=True),
        "ssd": make_step(ours.Trained(ours.build_state_space(shape, "ssd"), shape), shape, "float32", is_ours=True),
    }
    taken = medians(take_turns(ways, rounds))
    return {
        **{f"seconds.{name}": seconds for name, seconds in taken.items()},
        "ratio.state_space_vs_mambapy": taken["mambapy"] / taken["s6"],
        "ratio.ssd_vs_mambapy": taken["mambapy"] / taken["ssd"],
    }


def measure_layer(shape: Shape, rounds: int) -> dict[str, float]:
    """One layer, forward and backward. The peer needs a quarter of a minute, so it has two rounds and no warm-up."""
    peer = peers.build_mamba_layer(shape)
    layers = {"hf_mamba_layer": peer} | {f"{form}_layer": ours.MambaLayer(shape, form) for form in ("s6", "ssd")}
    ours.copy_mamba(layers["s6_layer"].mixer, peer.mixer)
    x_BTD = torch.randn(shape.batch, shape.window, shape.width)

    def step(layer: nn.Module, is_ours: bool) -> None:
        with our_matmul() if is_ours else contextlib.nullcontext():
            layer.zero_grad()
            layer(x_BTD).square().sum().backward()

    with torch.no_grad():
        difference = (layers["s6_layer"](x_BTD) - peer(x_BTD)).abs().max().item()
    assert difference < 1e-3, f"the layers differ by {difference}"
    ways = {name: functools.partial(step, layer, layer is not peer) for name, layer in layers.items()}
    for name in ("s6_layer", "ssd_layer"):
        ways[name]()
    taken = medians(take_turns(ways, min(rounds, 2), warm_up=0))
    return {
        **{f"seconds.{name}": seconds for name, seconds in taken.items()},
        "ratio.state_space_vs_hf_mamba": taken["hf_mamba_layer"] / taken["s6_layer"],
        "ratio.ssd_vs_hf_mamba": taken["hf_mamba_layer"] / taken["ssd_layer"],
    }


def measure_compiled(shape: Shape, rounds: int) -> dict[str, float]:
    """Steps in bf16 of both Llamas through torch.compile; the first, which compiles, is not counted."""
    peer, model = (torch.compile(model, dynamic=False) for model in build_pair(shape))
    ways = {
        "hf_llama_compiled": make_step(peer, shape, "bfloat16", is_ours=False),
        "llama_compiled": make_step(model, shape, "bfloat16", is_ours=True),
    }
    taken = medians(take_turns(ways, rounds, warm_up=2))
    return {
        **{f"seconds.{name}": seconds for name, seconds in taken.items()},
        "ratio.transformer_vs_hf_llama_compiled": taken["hf_llama_compiled"] / taken["llama_compiled"],
    }


def measure_parity(shape: Shape, rounds: int) -> dict[str, float]:
    """The loss after 20 steps from the same weights on the same tokens; raises where the models are not the same."""
    found = {}
    for name, build, dtype, most in (
        ("llama", build_pair, "float32", 1e-3),
        ("llama_bf16", build_pair, "bfloat16", 1e-2),
        ("mamba", build_mamba_pair, "float32", 1e-3),
    ):
        peer, model = build(shape)
        for count in (
            matrix_parameters,
            lambda m: sum(p.numel() for p in m.parameters()),
            lambda m: step_flops(m, shape),
        ):
            assert count(peer) == count(model), f"{name}: {count(peer)} and {count(model)}"
        losses = []
        for one, is_ours in ((peer, False), (model, True)):
            torch.manual_seed(1)
            step = make_step(one, shape, dtype, is_ours=is_ours)
            losses.append([step() for _ in range(STEPS_OF_PARITY)])
        difference = abs(losses[0][-1] / losses[1][-1] - 1)
        assert difference < most, f"{name}: losses {losses[0][-1]} and {losses[1][-1]} after {STEPS_OF_PARITY} steps"
        found |= {f"parity.{name}.loss": losses[1][-1], f"parity.{name}.difference": difference}
    return found


def measure_muon(shape: Shape, rounds: int) -> dict[str, float]:
    with our_matmul():
        return muon.steps_to_same_loss(shape)


MEASURES: dict[str, Callable[[Shape, int], dict[str, Any]]] = {
    "step": measure_step,
    "state_space": measure_state_space,
    "layer": measure_layer,
    "compiled": measure_compiled,
    "parity": measure_parity,
    "muon": measure_muon,
}
