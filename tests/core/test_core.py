"""Errors, seeds, registries, progress, the terminal, the device: the small things that all rooms stand on."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from nano_think.core import errors, interrupts
from nano_think.core.console import clean
from nano_think.core.device import (
    ComputeConfig,
    _route_matmul,
    _try_onednn,
    pick_compile,
    pick_device,
    pick_dtype,
    set_up,
    share_threads,
)
from nano_think.core.errors import BY_EXIT_CODE, Interrupted, NanoThinkError, UsageError, nearest
from nano_think.core.progress import Plain, Quiet, Terminal, describe, format_seconds
from nano_think.core.registry import Registry
from nano_think.core.rng import branch

CODES = {
    "NanoThinkError": 1, "UsageError": 2, "InputError": 3, "ArtifactError": 4, "StorageError": 5, "LockedError": 6,
    "DivergedError": 7, "ChildError": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_every_kind_of_error_has_its_exit_code(name: str):
    kind = getattr(errors, name)
    assert kind.exit_code == CODES[name] and issubclass(kind, NanoThinkError)
    assert f"{name} " in (errors.__doc__ or "")
    assert name == "NanoThinkError" or BY_EXIT_CODE[CODES[name]] is kind


def test_signals_have_the_shells_exit_codes():
    assert Interrupted(signal.SIGINT).exit_code == 130 and Interrupted(signal.SIGTERM).exit_code == 143
    assert len(BY_EXIT_CODE) == len(CODES) - 1


def test_nearest_name_is_suggested_and_all_are_listed():
    assert nearest("mirco", ["nano", "seed", "micro"]) == " Did you mean 'micro'? Known: micro, nano, seed."
    assert nearest("zzz", {"b": 1, "a": 2}) == " Known: a, b."


def test_seeds_are_branches_of_one_and_never_change():
    """Golden values: whoever changes them changes every run."""
    assert branch(1) == 3874038210105081456
    assert branch(1, "experts", "transformer") == 7737580765720274448
    assert branch(0, "windows", 7) == 8975485485301720165
    seeds = {branch(seed, *path) for seed in range(20) for path in ((), ("a",), ("b",), ("a", "b"), ("a", 1))}
    assert len(seeds) == 100 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of three modules that register themselves under names of another order than theirs."""
    name = "made_up_registry_package"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"from nano_think.core.registry import Registry\nTHINGS = Registry('thing', '{name}')\n"
    )
    for module, entry in (("one", "first"), ("two", "second"), ("zero", "alpha")):
        (folder / f"{module}.py").write_text(
            f"from {name} import THINGS\n@THINGS.register('{entry}')\nclass Thing:\n    pass\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_registry_fills_itself_at_the_first_look(package: str):
    things = importlib.import_module(package).THINGS
    assert f"{package}.one" not in sys.modules
    assert "first" in things and "third" not in things and len(things) == 3
    assert things["second"].__module__ == f"{package}.two"
    with pytest.raises(UsageError, match=r"unknown thing 'frist'. Did you mean 'first'. Known: alpha, first, second."):
        things["frist"]


@pytest.mark.parametrize("early", ["one", "two", "zero"])
def test_order_of_a_registry_does_not_depend_on_who_imported_what(package: str, early: str):
    """The order of experts is that of the router's weights."""
    importlib.import_module(f"{package}.{early}")
    assert list(importlib.import_module(package).THINGS) == ["alpha", "first", "second"]


def test_two_entries_of_one_name_are_our_mistake():
    things: Registry[Any] = Registry("thing", "nano_think.core")
    things.register("a")(1)
    with pytest.raises(AssertionError, match="two things are called 'a'"):
        things.register("a")(2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (42.4, "42 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3599.7, "1 h 00 min"),
     (7800, "2 h 10 min"), (90000, "25 h 00 min")],
)  # fmt: skip
def test_seconds_are_words(seconds: float, text: str):
    assert format_seconds(seconds) == text


def step(number: int, steps: int = 100, **more: Any) -> dict[str, Any]:
    event = {"event": "step", "step": number, "steps": steps, "tokens": number * 512, "tokens_per_second": 1024.0}
    return event | {"loss": 3.14159} | more


def test_a_step_is_described_with_what_it_still_needs():
    assert describe(step(10)) == "step 10/100  loss 3.142  1,024 tokens/s  45 s left"
    assert describe(step(100)).endswith("  0 s left")


def test_plain_progress_is_a_line_every_ten_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch):
    now, lines = [0.0], []
    monkeypatch.setattr("nano_think.core.progress.time.monotonic", lambda: now[0])
    progress = Plain(lines.append)
    for number in range(1, 26):
        now[0] = float(number)
        progress.event("diffuser", step(number, steps=25))
    assert [line.split()[2] for line in lines] == ["1/25", "11/25", "21/25", "25/25"]
    progress.event("router", step(1))
    progress.event("router", {"event": "resumed", "step": 4, "steps": 9})
    progress.event("router", {"event": "saved", "step": 5})
    progress.event("router", {"event": "compute", "device": "cpu", "threads": 2})
    progress.start("tokens")
    progress.fresh("tokens", "abc")
    progress.done("tokens", 1.25)
    assert lines[5:] == [
        "router: goes on from step 4 of 9", "router: device cpu, threads 2", "tokens: started",
        "tokens: up to date (abc)", "tokens: done in 1.2 s",
    ]  # fmt: skip


def test_terminal_progress_draws_bars_and_leaves_lines():
    console = Console(force_terminal=True, width=100, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    progress = Terminal(console)
    progress.start("diffuser")
    progress.event("diffuser", {"event": "resumed", "step": 4, "steps": 100})
    progress.event("diffuser", step(10))
    assert [(task.completed, task.total) for task in progress._bars.tasks] == [(10, 100)]
    progress.done("diffuser", 65)
    progress.fresh("tokens", "abc")
    progress.note("[not markup]")
    progress.stop()
    shown = console.export_text()
    for text in ("diffuser goes on from step 4 of 100", "1 min 05 s", "up to date (abc)", "[not markup]"):
        assert text in shown
    console.file.close()
    assert all(getattr(Quiet(), name)(*args) is None for name, args in (("note", ("x",)), ("stop", ())))


def test_what_a_model_says_cannot_steer_the_terminal():
    assert clean("a\tb\nc\x1b[31m\x07\r\x9b2J\x7fé\U0001f600") == "a\tb\nc[31m2Jé\U0001f600"


def test_device_and_precision_are_picked(monkeypatch: pytest.MonkeyPatch):
    wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device("auto").type == wanted and pick_device("cpu").type == "cpu"
    for has, picked in (({"avx512_bf16": True}, "bfloat16"), ({"bf16": True}, "bfloat16"), ({"avx2": True}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert pick_dtype("auto", torch.device("cpu")) == picked
    for generation, picked in (((9, 0), "bfloat16"), ((8, 6), "bfloat16"), ((7, 5), "float32")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, generation=generation: generation)
        assert pick_dtype("auto", torch.device("cuda")) == picked
    assert pick_dtype("auto", torch.device("mps")) == "float32"
    assert [pick_dtype(one, torch.device("cpu")) for one in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert [pick_compile("auto", torch.device(name)) for name in ("cpu", "cuda", "mps")] == ["off", "on", "off"]
    assert [pick_compile(wanted, torch.device("cuda")) for wanted in ("on", "off")] == ["on", "off"]


def test_threads_are_shared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [share_threads(0, 1), share_threads(0, 3), share_threads(0, 20), share_threads(5, 3)] == [8, 2, 1, 5]
    with pytest.raises(ValueError, match="threads: wanted 0 or more, got -1"):
        ComputeConfig(threads=-1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert set_up(ComputeConfig(threads=1, fast_matmul=False), torch.device("cpu")) == {
        "device": "cpu (the default here)", "dtype": "float32 (no bfloat16 in this device's products)",
        "threads": "1 (of 8 cores)",
        "torch": torch.__version__, "matmul": "default (as set)",
    }  # fmt: skip
    other = set_up(ComputeConfig(threads=2, processes=2, dtype="bfloat16", fast_matmul=False), torch.device("cpu"))
    assert (other["dtype"], other["processes"]) == ("bfloat16 (as set)", "2 (as set)")


def test_fast_products_are_used_only_where_they_are_exact(monkeypatch: pytest.MonkeyPatch):
    """Where oneDNN would round to bfloat16 the setting is put back as it was."""
    _try_onednn.cache_clear()
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    assert _route_matmul(False) == "default (as set)" and matmul.fp32_precision == before
    told = _route_matmul(True)
    assert (matmul.fp32_precision == "bf16") == told.startswith("oneDNN")
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    assert ((a @ b).double() - a.double() @ b.double()).abs().max() < 1e-4
    matmul.fp32_precision = before
    _round_products(monkeypatch)
    assert _route_matmul(True).startswith("default (oneDNN would err by") and matmul.fp32_precision == before
    _try_onednn.cache_clear()


def _round_products(monkeypatch, seconds=0.0):
    """A processor whose oneDNN rounds fp32 products to bfloat16, and takes its time."""
    _try_onednn.cache_clear()
    matmul, exact = torch.backends.mkldnn.matmul, torch.Tensor.__matmul__

    def rounding(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if one.dtype == torch.float32 and matmul.fp32_precision == "bf16":
            time.sleep(seconds)
            return exact(one.bfloat16(), other.bfloat16()).float()
        return exact(one, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)


def test_stages_that_begin_at_once_leave_products_as_they_were(monkeypatch: pytest.MonkeyPatch):
    """Each tries whether fast products are exact: none may take another's trial for what was set before."""
    _round_products(monkeypatch, seconds=0.2)
    matmul, begin = torch.backends.mkldnn.matmul, threading.Barrier(4)
    before = matmul.fp32_precision

    def one(place: int) -> str:
        begin.wait(10)
        time.sleep(0.05 * place)
        return _route_matmul(True)

    with ThreadPoolExecutor(4) as pool:
        told = set(pool.map(one, range(4)))
    assert len(told) == 1 and next(iter(told)).startswith("default (oneDNN would err by")
    assert matmul.fp32_precision == before
    _try_onednn.cache_clear()


SIGNALLED = """
import os, signal, sys
from nano_think.core import interrupts
interrupts.install()
interrupts.leave_if_requested()
os.kill(os.getpid(), signal.SIGTERM)
assert interrupts.requested() == signal.SIGTERM
try:
    interrupts.leave_if_requested()
except interrupts.Interrupted as error:
    print(error.exit_code, flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("still here")
"""


def test_first_signal_is_noted_and_the_second_leaves_at_once():
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("143\n", 130), done.stderr
    assert interrupts.requested() == 0


def test_processes_share_the_threads_of_a_training():
    assert [ComputeConfig(threads=n, processes=m).threads_per_process for n, m in ((4, 2), (1, 2), (0, 3))] == [2, 1, 0]
    with pytest.raises(ValueError, match="processes: wanted at least 1, got 0"):
        ComputeConfig(processes=0)
