"""What takes long to make, shared: services that `nano-think up` has started, and a chat model."""

import pytest

from tests.checkout import Checkout, copy_checkout, free_port
from tests.conftest import Commands

# Every step is saved, so that a kill at any moment has something to go on from.
SFT = ("sft", "--preset", "chat-nano", "--compute.threads", "1", "--sft.save-every", "0", "--json")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A fresh clone; whatever it has started ends with the module."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    made = Checkout(folder, {"prefect": free_port(), "mlflow": free_port()})
    yield made
    made.commands.kill_all()


@pytest.fixture(scope="session")
def chat_run(tmp_path_factory):
    """The root of a finished run of the chat pipeline, and what the run said."""
    folder = tmp_path_factory.mktemp("chat")
    command = Commands(folder)
    told = command(*SFT, "--root", folder / "root")
    assert told.returncode == 0, told.stderr
    assert not command.processes()
    return folder / "root", told
