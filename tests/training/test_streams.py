"""Experts that are computed once: the router's training on what was kept is the training that computes them again."""

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from nano_think.core import interrupts
from nano_think.core.errors import Interrupted
from nano_think.data.loader import Windows
from nano_think.heads.language import LanguageHead
from nano_think.training import streams
from nano_think.training.loop import TrainConfig, seed_everything, train
from nano_think.training.objectives.router import RouterObjective
from nano_think.training.streams import MARKS, ROWS, WindowCache, bytes_per_window, digest_of, why_not
from tests.tiny import START, tiny_mixture

WINDOW, BATCH, SEED = 12, 4, 17
TOKENS = np.random.default_rng(0).integers(0, START, 200)
TOKENS[::40] = START
STEPS = 11  # Nearly three epochs of 15 windows, whose ends fall inside batches.
CONFIG = TrainConfig(tokens=STEPS * BATCH * WINDOW, batch=BATCH, save_every=-1.0, log_every=1)
WAYS = ("expert", "expert probability")


def make_windows(recut: bool = False) -> Windows:
    return Windows(TOKENS, WINDOW, BATCH, seed=3, recut=recut)


def make_objective(router: str = "expert") -> RouterObjective:
    seed_everything(SEED)
    return RouterObjective(tiny_mixture(router, randomised=False, n_layers=1), expert_dropout=0.5, entropy=0.01)


def make_cache(objective: RouterObjective, folder: Path, logits: bool = False, **about) -> WindowCache:
    parts = objective.read_experts(torch.from_numpy(make_windows().batch(0)), logits)
    return WindowCache(folder / "streams", make_windows().distinct(), parts, about)


def run(objective: RouterObjective, folder: Path, log: Callable[[Any], None] = lambda event: None) -> list[float]:
    """The loss of every step that was taken."""
    losses: list[float] = []

    def note(event: dict[str, Any]) -> None:
        log(event)
        if event["event"] == "step":
            losses.append(event["loss"])

    train(objective, make_windows(), CONFIG, Accelerator(cpu=True), folder / "work", note, SEED)
    return losses


@pytest.mark.parametrize("router", WAYS)
def test_kept_outputs_give_the_same_training(router: str, accelerator: Accelerator, tmp_path: Path):
    """Bit for bit, experts dropped at random: every loss, and the router in the end; the experts are as they were."""
    plain, kept = make_objective(router), make_objective(router)
    before = digest_of(kept.model.experts, kept.model.head)
    cache = make_cache(kept, tmp_path)
    kept.remember(cache)
    assert run(kept, tmp_path / "kept") == run(plain, tmp_path / "plain")
    ours, wanted = kept.model.router.state_dict(), plain.model.router.state_dict()
    assert all(torch.equal(ours[path], value) for path, value in wanted.items())
    assert digest_of(kept.model.experts, kept.model.head) == before == digest_of(plain.model.experts, plain.model.head)
    # 44 windows of which 15 differ: the fourth batch has the end of the first epoch, and is computed as a whole.
    assert cache.tally.computed == 16 and cache.tally.read == 28


def test_kept_logits_give_the_same_losses(accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """To what rounding allows, experts dropped at random; and the head is asked for nothing."""
    plain, kept = make_objective(), make_objective()
    cache = make_cache(kept, tmp_path, logits=True)
    kept.remember(cache, with_logits=True)
    wanted, asked = run(plain, tmp_path / "plain"), []
    monkeypatch.setattr(LanguageHead, "mean_nll", lambda *_: asked.append("the head"))
    found = run(kept, tmp_path / "kept")
    # What rounding changes in one step, the later ones carry on.
    assert found[0] == pytest.approx(wanted[0], abs=1e-6) and found == pytest.approx(wanted, abs=1e-3)
    assert cache.tally.read == 28 and not asked


def test_experts_are_computed_for_no_window_twice(accelerator: Accelerator, tmp_path: Path):
    objective = make_objective()
    objective.remember(make_cache(objective, tmp_path))
    counted: list[int] = []
    for expert in objective.model.experts.values():
        expert.register_forward_pre_hook(lambda module, arguments: counted.append(len(arguments[0])))
    run(objective, tmp_path)
    assert counted == [BATCH] * 4 * len(objective.model.names)


def test_training_that_was_cut_goes_on_with_what_was_kept(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = make_objective()
    run(whole, tmp_path / "whole")

    def stop_at_six(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 6:
            monkeypatch.setattr(interrupts, "_requested", signal.SIGTERM)

    cut = make_objective()
    cut.remember(make_cache(cut, tmp_path))
    with pytest.raises(Interrupted):
        run(cut, tmp_path, stop_at_six)
    monkeypatch.setattr(interrupts, "_requested", 0)
    again = make_objective()
    cache = make_cache(again, tmp_path)
    again.remember(cache)
    run(again, tmp_path)
    wanted = whole.model.router.state_dict()
    assert all(torch.equal(value, wanted[path]) for path, value in again.model.router.state_dict().items())
    assert cache.tally.computed == 0 and cache.tally.read == (STEPS - 6) * BATCH


def test_full_disk_ends_the_keeping_and_not_the_training(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, kept = make_objective(), make_objective()
    cache, write = make_cache(kept, tmp_path), WindowCache._write
    kept.remember(cache)

    def full(self: WindowCache, row: int, values) -> None:
        if self.tally.computed == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, row, values)

    monkeypatch.setattr(WindowCache, "_write", full)
    assert run(kept, tmp_path / "kept") == run(plain, tmp_path / "plain")
    assert cache.closed == "the disk refused (No space left on device)" and not cache.folder.exists()


def filled(folder: Path, **about) -> tuple[WindowCache, torch.Tensor, list[torch.Tensor]]:
    """A cache that holds a batch, the batch, and what was kept of it."""
    objective, windows = make_objective("expert probability"), torch.from_numpy(make_windows().batch(0))
    cache, parts = make_cache(objective, folder, **about), objective.read_experts(windows)
    cache.keep(windows, parts)
    return cache, windows, parts


def test_what_is_fetched_is_what_was_kept(tmp_path: Path):
    cache, windows, parts = filled(tmp_path)
    found = cache.fetch(windows.flip(0))
    assert found is not None and [part[0].dtype for part in found] == [part.dtype for part in parts]
    assert all(torch.equal(torch.stack(got), part.flip(0)) for got, part in zip(found, parts, strict=True))
    later = torch.from_numpy(make_windows().batch(1))
    assert cache.fetch(later) is None and cache.fetch(torch.cat([windows[:1], later[:1]])) is None


def test_what_is_kept_later_is_found_too(tmp_path: Path):
    """Though the file was shorter when it was first read."""
    cache, windows, parts = filled(tmp_path)
    first = cache.fetch(windows)
    later = torch.from_numpy(make_windows().batch(1))
    cache.keep(later, [part + 1 for part in parts])
    second = cache.fetch(later)
    assert first is not None and second is not None
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(torch.stack(two), torch.stack(one) + 1)


def test_who_writes_to_what_was_fetched_changes_nothing_on_the_disk(tmp_path: Path):
    cache, windows, _ = filled(tmp_path)
    (value, *_), *_ = cache.fetch(windows) or ()
    before = value.clone()
    value.zero_()
    again = make_cache(make_objective("expert probability"), tmp_path).fetch(windows)
    assert again is not None and torch.equal(again[0][0], before) and before.any()


def test_half_precision_is_kept_as_it_is(tmp_path: Path):
    windows, part = torch.from_numpy(make_windows().batch(0)), torch.randn(BATCH, 3, 5).bfloat16()
    cache = WindowCache(tmp_path / "streams", make_windows().distinct(), [part], {})
    cache.keep(windows, [part])
    (found,) = cache.fetch(windows) or ()
    assert found[0].dtype == torch.bfloat16 and torch.equal(torch.stack(found), part)
    assert bytes_per_window([part]) == 32  # 15 numbers of 2 bytes, up to a multiple of 8.


@pytest.mark.parametrize(("name", "at"), [(ROWS, 100), (ROWS, -9), (MARKS, 0)])
def test_damaged_row_is_not_there(name: str, at: int, tmp_path: Path):
    """Whatever a crash or a bad disk leaves of the first window of the batch; the others stay."""
    cache, windows, _ = filled(tmp_path)
    row = cache.rows[streams._keys(windows)[0]]
    size, path = {ROWS: cache.row_bytes, MARKS: 8}[name], cache.folder / name
    content = bytearray(path.read_bytes())
    content[row * size + at % size] ^= 1
    path.write_bytes(content)
    assert cache.fetch(windows[:1]) is None and cache.fetch(windows[1:]) is not None


def test_a_row_that_was_cut_off_is_not_there(tmp_path: Path):
    cache, windows, _ = filled(tmp_path)
    rows = [cache.rows[key] for key in streams._keys(windows)]
    with (cache.folder / ROWS).open("r+b") as file:
        file.truncate(max(rows) * cache.row_bytes + 5)
    last = rows.index(max(rows))
    assert cache.fetch(windows[last : last + 1]) is None and cache.fetch(windows.roll(-last - 1, 0)[:-1]) is not None


def test_rows_of_another_model_are_dropped(tmp_path: Path):
    _, windows, _ = filled(tmp_path, model="a")
    objective = make_objective("expert probability")
    assert make_cache(objective, tmp_path, model="a").fetch(windows) is not None
    assert make_cache(objective, tmp_path, model="b").fetch(windows) is None


def test_estimates_and_validation_leave_the_cache_alone(tmp_path: Path):
    objective, windows = make_objective(), torch.from_numpy(make_windows().batch(0))
    cache = make_cache(objective, tmp_path)
    objective.remember(cache)
    objective.train()(windows, 0.0)
    objective.begin()
    objective.eval().validation_loss(windows)
    assert cache.tally.computed == cache.tally.read == 0
    objective.train()(windows, 0.0)
    assert cache.tally.computed == BATCH


@pytest.mark.parametrize(("steps", "row", "most", "reason"), [
    (3, 10, 1000, "only 0 of 12 windows come a second time"),
    (4, 10, 1000, "only 1 of 16 windows"),
    (9, 10, 1000, None),
    (9, 10, 149, "it would need 0 MB, and 0 MB are allowed"),
    (9, 10, 0, "are allowed (cache_bytes)"),
    (9, 10**15, 10**18, "half of what is free on the disk"),
])  # fmt: skip
def test_windows_are_kept_where_it_pays(steps: int, row: int, most: int, reason: str | None, tmp_path: Path):
    said = why_not(make_windows(), steps, row, most, tmp_path)
    assert said is None if reason is None else said is not None and reason in said


def test_a_training_that_goes_on_decides_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Though what it has kept already has filled its part of the disk."""
    disk = type("Disk", (), {"free": 10**6})
    monkeypatch.setattr(streams.shutil, "disk_usage", lambda path: disk)
    row = 10**6 // 2 // 15 - 300
    assert why_not(make_windows(), 9, row, 10**9, tmp_path / "streams") is None
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / ROWS).write_bytes(bytes(6 * row))
    disk.free -= (tmp_path / "streams" / ROWS).stat().st_blocks * 512
    assert why_not(make_windows(), 9, row, 10**9, tmp_path / "streams") is None


def test_windows_that_are_cut_anew_never_repeat(tmp_path: Path):
    assert why_not(make_windows(recut=True), 100, 10, 10**6, tmp_path) == "only 0 of 400 windows come a second time"
