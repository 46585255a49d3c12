"""Services that `nano-think up` has started, shared by the tests of a module."""

import pytest

from tests.checkout import Checkout, copy_checkout, free_port


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A fresh clone; whatever it has started ends with the module."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    made = Checkout(folder, {"prefect": free_port(), "mlflow": free_port()})
    yield made
    made.commands.kill_all()
