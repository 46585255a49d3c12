"""Slots on devices: queues, in one process and between several, with devices that are only names."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from nano_think.core import process
from nano_think.core.device import gpu_memory
from nano_think.core.errors import Interrupted, StorageError
from nano_think.core.slots import Slots, visible

GB = 10**9


def most_at_once(slots, sizes, hoped, seconds=0.05):
    """Start a training of each size at once; the most that ran together on each device.

    Each goes on until as many as are hoped for ran together on its device (a minute at most), and a little longer, in
    which one more could begin.
    """
    changed, running, most, had = threading.Condition(), {}, {}, []

    def train(size):
        with slots.hold(lambda: size) as device:
            with changed:
                had.append(device)
                running[device] = running.get(device, 0) + 1
                most[device] = max(most.get(device, 0), running[device])
                changed.notify_all()
                changed.wait_for(lambda: most == hoped, 60)
            time.sleep(seconds)
            with changed:
                running[device] -= 1

    threads = [threading.Thread(target=train, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(had) == len(sizes)
    return most


@pytest.mark.parametrize(
    ("sizes", "most"),
    [([4 * GB] * 4, 3), ([5 * GB] * 3, 1), ([11 * GB] * 2, 1), ([99 * GB] * 2, 1)],
    ids=["three fit", "half of it", "nearly all", "more than there is"],
)
def test_one_gpu_takes_as_many_as_fit(tmp_path, sizes, most):
    """At most three; fewer where the memory does not allow them; one at least."""
    hoped = {"GPU-a": most}
    assert most_at_once(Slots(tmp_path, {"GPU-a": 12 * GB}), sizes, hoped) == hoped


def test_large_and_small_share_what_there_is():
    """A training takes the slots that its memory needs."""
    slots = Slots(None, {}, 3)
    assert [slots.count(size * GB, 12 * GB) for size in (1, 4, 5, 8, 9, 50)] == [1, 1, 2, 2, 3, 3]
    assert slots.count(50 * GB, None) == 1


def test_two_gpus_are_both_used(tmp_path):
    """Who cannot have one takes the other."""
    hoped = {"GPU-a": 1, "GPU-b": 1}
    assert most_at_once(Slots(tmp_path, {"GPU-a": 9 * GB, "GPU-b": 9 * GB}), [9 * GB] * 2, hoped) == hoped


def test_serial_on_a_cpu(tmp_path):
    """One slot: one after another, and nobody asks how large they are."""
    assert most_at_once(Slots(tmp_path, {"cpu": None}, 1), [0, 0, 0], {"cpu": 1}) == {"cpu": 1}


def test_without_devices_nobody_waits():
    """And nothing is asked or written."""
    with Slots().hold(lambda: 1 // 0) as device:
        assert device is None


HOLD = """
import sys, time
from pathlib import Path
from nano_think.core.slots import Slots
with Slots(Path(sys.argv[1]), {"GPU-a": 9}).hold(lambda: 9):
    print("held", flush=True)
    time.sleep(600)
"""


def test_slot_of_a_killed_process_is_free(tmp_path):
    """Another process's slot is respected while it lives, and free when it was killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    got = threading.Event()

    def wait():
        with Slots(tmp_path, {"GPU-a": 9}).hold(lambda: 9):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.5)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert got.wait(60)
    thread.join()


def test_waiting_ends_with_the_run(tmp_path):
    """Ctrl-C does not wait for a device."""
    slots = Slots(tmp_path, {"cpu": None}, 1)
    try:
        with slots.hold(lambda: 0):
            process.stop_all()
            with pytest.raises(Interrupted), slots.hold(lambda: 0):
                pass
    finally:
        process.allow_again()


@pytest.mark.parametrize(
    ("seen", "device", "told"),
    [(None, "GPU-b", "1"), ("4,7", "GPU-b", "7"), (None, "cpu", None), (None, None, None), ("4", None, None)],
)
def test_child_sees_its_device_alone(monkeypatch, seen, device, told):
    """Of those that we see ourselves."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    names = ["GPU-a", "GPU-b"] if device != "cpu" else ["cpu"]
    assert visible(device, names) == ({"CUDA_VISIBLE_DEVICES": told} if told else {})


def test_gpus_are_called_the_same_whichever_are_seen(monkeypatch):
    """Runs that see different GPUs count none of them twice, and do not take two for one."""
    cards = [SimpleNamespace(uuid=name, total_memory=8) for name in ("a", "b", "a")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for seen, names in (((0, 1), ["GPU-a", "GPU-b"]), ((1,), ["GPU-b"]), ((0, 2), ["GPU-a", "GPU-a-1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: len(seen))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index, seen=seen: cards[seen[index]])
        assert list(gpu_memory()) == names


def test_training_of_several_processes_has_all_gpus_to_itself(tmp_path):
    """Every slot of every one, or none: a training on one of them keeps it waiting, and it keeps others waiting."""
    gpus = {"GPU-a": 9, "GPU-b": 9}
    got, leave = threading.Event(), threading.Event()

    def train():
        with Slots(tmp_path, gpus, together=True).hold(lambda: 1 // 0) as device:
            assert device is None
            got.set()
            leave.wait(60)

    thread = threading.Thread(target=train)
    with Slots(tmp_path, {"GPU-b": 9}).hold(lambda: 1):
        thread.start()
        assert not got.wait(0.5)
    assert got.wait(60)
    try:
        assert not Slots(tmp_path, gpus)._take("GPU-a", 1, contextlib.ExitStack())
    finally:
        leave.set()
        thread.join()


def test_slots_lie_in_a_folder_of_our_own(tmp_path, monkeypatch):
    """Nobody else may read or write it, and one that is somebody else's is refused."""
    with Slots(tmp_path / "slots", {"GPU-a": 9}).hold(lambda: 1):
        assert (tmp_path / "slots").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: -5)
    with pytest.raises(StorageError, match="another user"), Slots(tmp_path / "slots", {"GPU-a": 9}).hold(lambda: 1):
        pass
