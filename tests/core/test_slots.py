"""Slots on devices: queues, in one process and between several, with devices that are only names."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nano_think.core import process
from nano_think.core.errors import Interrupted
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
    hoped = {"cuda0": most}
    assert most_at_once(Slots(tmp_path, {"cuda0": 12 * GB}), sizes, hoped) == hoped


def test_large_and_small_share_what_there_is():
    """A training takes the slots that its memory needs."""
    slots = Slots(None, {}, 3)
    assert [slots.count(size * GB, 12 * GB) for size in (1, 4, 5, 8, 9, 50)] == [1, 1, 2, 2, 3, 3]
    assert slots.count(50 * GB, None) == 1


def test_two_gpus_are_both_used(tmp_path):
    """Who cannot have one takes the other."""
    hoped = {"cuda0": 1, "cuda1": 1}
    assert most_at_once(Slots(tmp_path, {"cuda0": 9 * GB, "cuda1": 9 * GB}), [9 * GB] * 2, hoped) == hoped


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
with Slots(Path(sys.argv[1]), {"cuda0": 9}).hold(lambda: 9):
    print("held", flush=True)
    time.sleep(600)
"""


def test_slot_of_a_killed_process_is_free(tmp_path):
    """Another process's slot is respected while it lives, and free when it was killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    got = threading.Event()

    def wait():
        with Slots(tmp_path, {"cuda0": 9}).hold(lambda: 9):
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
    [(None, "cuda1", "1"), ("4,7", "cuda1", "7"), (None, "cpu", None), (None, "all", None), ("4", None, None)],
)
def test_child_sees_its_device_alone(monkeypatch, seen, device, told):
    """Of those that we see ourselves."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert visible(device) == ({"CUDA_VISIBLE_DEVICES": told} if told else {})
