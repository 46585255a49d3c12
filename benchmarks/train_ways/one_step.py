"""A model that takes a step whenever a line comes, and says so: python -m train_ways.one_step WHICH THREADS SIZES."""

import ast
import sys
from collections.abc import Callable

import torch

from nano_think.core.device import pick_dtype
from train_ways import ours, peers
from train_ways.measure import make_step
from train_ways.shape import Shape


def main(which: str, threads: str, sizes: str) -> None:
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    step = build(which, Shape(**ast.literal_eval(sizes)))
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def build(which: str, shape: Shape) -> Callable[[], float]:
    """The step of a model with what its side does when nothing is said."""
    if which == "hf_llama":
        return make_step(peers.Llama(shape), shape, "float32", is_ours=False)
    default = pick_dtype("auto", torch.device("cpu"))
    model = ours.build_llama(shape) if which == "llama" else ours.Shipped(ours.build_transformer(shape), shape)
    return make_step(model, shape, default, is_ours=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
