"""An accelerator per test: Accelerate keeps one state per process, which must not pass from test to test."""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    _forget()
    torch.set_num_threads(1)
    yield Accelerator(cpu=True)
    _forget()


def _forget() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
