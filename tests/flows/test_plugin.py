"""`prefect deployment run full-pipeline`: the second half of the name, for that command alone."""

import asyncio
import sys

import pytest
from prefect.client.orchestration._deployments.client import DeploymentAsyncClient

from flows import plugin


@pytest.fixture
def asked(monkeypatch):
    """The names that Prefect's client is asked for."""
    names = []

    async def read(self, name):
        names.append(name)

    monkeypatch.setattr(DeploymentAsyncClient, "read_deployment_by_name", read)
    return names


@pytest.mark.parametrize(("name", "wanted"), [("full-pipeline", "full-pipeline/full-pipeline"), ("a/b", "a/b")])
def test_a_name_is_both_of_its_halves(asked, monkeypatch, name, wanted):
    monkeypatch.setattr(sys, "argv", ["/bin/prefect", "deployment", "run", name])
    plugin.setup_environment(ctx=None)
    asyncio.run(DeploymentAsyncClient.read_deployment_by_name(None, name))
    assert asked == [wanted]


@pytest.mark.parametrize(
    "words", [["/bin/prefect", "deployment", "ls"], ["/bin/prefect"], ["/bin/nano-think", "deployment", "run"], ["-c"]]
)
def test_other_commands_are_left_alone(asked, monkeypatch, words):
    before = DeploymentAsyncClient.read_deployment_by_name
    monkeypatch.setattr(sys, "argv", words)
    plugin.setup_environment(ctx=None)
    assert DeploymentAsyncClient.read_deployment_by_name is before


def test_nothing_is_said_when_prefect_has_changed(monkeypatch, capfd):
    """A method or a module that is not there any more: Prefect is as it is without us."""
    monkeypatch.setattr(sys, "argv", ["prefect", "deployment", "run", "full-pipeline"])
    monkeypatch.delattr(DeploymentAsyncClient, "read_deployment_by_name")
    plugin.setup_environment(ctx=None)
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration._deployments.client", None)
    plugin.setup_environment(ctx=None)
    assert capfd.readouterr() == ("", "")
