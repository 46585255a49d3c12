"""Three lines of Python, and MLflow's pyfunc."""

import mlflow
import pytest

import nano_think
from nano_think.stages.artifact import open_artifact
from nano_think.stages.tracking_export import save_pyfunc


def test_load_and_chat(nano_run):
    talker = nano_think.load(nano_run.told.json["model"])
    answer = talker.chat("hi", max_new_tokens=5)
    assert talker.messages == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]
    for _ in range(5):
        talker.chat("and the word " * 3, max_new_tokens=2)
    assert len(talker.messages) == 12


def test_completing_leaves_nothing(nano_run):
    talker = nano_think.load(root=nano_run.root)
    assert talker.complete("In the", max_new_tokens=5) == talker.complete("In the", max_new_tokens=5)
    assert talker.messages == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pyfunc_writes_on(nano_run, tmp_path):
    """MLflow's own warnings about what it does with our signature are not ours."""
    artifact = open_artifact(nano_run.folder("router"))
    save_pyfunc(artifact, tmp_path / "pyfunc")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "pyfunc"))
    told = loaded.predict(["In the", "def "], params={"max_new_tokens": 3})
    wanted = nano_think.load(artifact.path).complete("In the", max_new_tokens=3)
    assert told[0] == wanted and len(told) == 2
    assert not list(tmp_path.rglob("*.pkl"))
