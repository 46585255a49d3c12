"""Stages: keyed by all that they depend on, made once, made again alone when damaged, resumed when half-made."""

import contextlib
import errno

import pytest

from nano_think.core.errors import LockedError, StorageError, UsageError
from nano_think.core.progress import Plain
from nano_think.stages import modules
from nano_think.stages.artifact import MANIFEST
from nano_think.stages.modules import tell_modules
from nano_think.stages.stage import AGAIN, WORK, Context, making


def test_second_run_returns_what_the_first_made(make_word, tmp_path):
    """The same key is built once."""
    stage = make_word()
    first, second = stage.run(tmp_path, {}), stage.run(tmp_path, {})
    assert first == second
    assert make_word.builds == {"moon": 1}


def test_key_does_not_depend_on_the_object_or_the_root(make_word, tmp_path):
    """Another object of the same configuration in another root has the same key."""
    assert make_word().run(tmp_path / "a", {}).key == make_word().run(tmp_path / "b", {}).key


def test_key_follows_the_configuration(make_word):
    """Another setting, another key."""
    assert make_word("moon").key({}) != make_word("star").key({})


def test_key_follows_what_is_read_from_outside(make_word):
    """Another fingerprint, another key."""
    assert make_word(outside="sky").key({}) != make_word(outside="sea").key({})


def test_key_follows_the_code(make_word):
    """Other modules, another key."""
    assert make_word().key({}) != make_word(modules=["nano_think.core.files"]).key({})


def test_key_follows_the_inputs_contents_and_names(make_word, tmp_path):
    """Another input, or the same under another name, gives another key; the input's own key does not matter."""
    moon, star = make_word("moon").run(tmp_path, {}), make_word("star").run(tmp_path, {})
    again = make_word("moon", outside="sea").run(tmp_path, {})
    taker = make_word("take")
    assert taker.key({"x": moon}) != taker.key({"x": star})
    assert taker.key({"x": moon}) != taker.key({"y": moon})
    assert again.key != moon.key
    assert taker.key({"x": moon}) == taker.key({"x": again})


def test_key_does_not_depend_on_the_order_of_the_inputs(make_word, tmp_path):
    """Inputs are a mapping."""
    moon, star = make_word("moon").run(tmp_path, {}), make_word("star").run(tmp_path, {})
    assert make_word().key({"a": moon, "b": star}) == make_word().key({"b": star, "a": moon})


def test_damaged_artifact_is_made_again_alone(make_word, tmp_path):
    """Only the damaged one is rebuilt; what comes after it keeps its key, and the reason is told."""
    told = []
    context = Context(progress=Plain(told.append))
    moon = make_word("moon").run(tmp_path, {})
    taken = make_word("take").run(tmp_path, {"x": moon})
    (moon.path / "word.txt").write_text("moor")
    repaired = make_word("moon").run(tmp_path, {}, context)
    assert make_word("take").run(tmp_path, {"x": repaired}) == taken
    assert make_word.builds == {"moon": 2, "take": 1}
    assert any("made again" in line and "word.txt" in line for line in told)


def test_damaged_manifest_is_made_again(make_word, tmp_path):
    """A torn manifest does not stop a run."""
    moon = make_word().run(tmp_path, {})
    (moon.path / MANIFEST).write_text("{")
    assert make_word().run(tmp_path, {}).digest == moon.digest


def test_half_made_folder_is_gone_on_with(make_word, tmp_path):
    """Without a manifest the stage builds in the same folder, and finds its `work` of before there."""
    stage = make_word()
    work = tmp_path / "word" / stage.key({}) / "work"
    work.mkdir(parents=True)
    (work / "checkpoint").write_text("42")
    seen = []
    build = stage.build
    stage.build = lambda inputs, out, context: (
        seen.append((out / "work" / "checkpoint").read_text()) or build(inputs, out, context)
    )
    made = stage.run(tmp_path, {})
    assert seen == ["42"]
    assert not (made.path / "work").exists()
    assert made.manifest["files"].keys() == {"word.txt"}


def forced(stage, root):
    return stage.run(root, {}, Context(force=frozenset({stage.name})))


def test_forced_build_that_fails_leaves_the_old_one(make_word, tmp_path):
    """And what it has begun is gone on with when it is asked for again."""
    old, stage = make_word().run(tmp_path, {}), make_word()
    build, seen = stage.build, []

    def stop(inputs, out, context):
        (out / WORK).mkdir(exist_ok=True)
        (out / WORK / "checkpoint").write_text("hours")
        raise KeyboardInterrupt

    stage.build = stop
    with pytest.raises(KeyboardInterrupt):
        forced(stage, tmp_path)
    assert make_word().run(tmp_path, {}) == old.verify()
    stage.build = lambda inputs, out, context: (
        seen.append((out / WORK / "checkpoint").read_text()) or build(inputs, out, context)
    )
    assert forced(stage, tmp_path) == old.verify() and seen == ["hours"]
    assert list(tmp_path.rglob(MANIFEST)) == [old.path / MANIFEST]


@pytest.mark.parametrize("moved", [False, True], ids=["before the swap", "in its midst"])
def test_crash_around_the_swap_loses_neither(make_word, tmp_path, moved):
    """The next run puts the new one in its place."""
    stage, old = make_word(), make_word().run(tmp_path, {})
    again = stage.again(tmp_path, old.path)
    stage._make(again, {}, Context())
    (again / "work").mkdir()
    if moved:
        old.path.rename(again.with_name(f"{again.name}.old"))
    assert make_word().run(tmp_path, {}).verify() == old
    assert (old.path / "work").is_dir() and not list((tmp_path / AGAIN / "word").iterdir())


def test_half_made_folder_is_gone_on_with_though_forced(make_word, tmp_path):
    """Only what is finished is made once more."""
    stage = make_word()
    kept = tmp_path / "word" / stage.key({}) / "work" / "checkpoint"
    kept.parent.mkdir(parents=True)
    kept.write_text("42")
    stage.build = lambda inputs, out, context: {"seen": (out / "work" / "checkpoint").read_text()}
    assert forced(stage, tmp_path).summary == {"seen": "42"}


def test_failed_build_does_not_look_finished(make_word, tmp_path):
    """After an error there is no manifest, and the next run builds."""
    stage = make_word()
    stage.build = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stage.run(tmp_path, {})
    assert not list(tmp_path.rglob(MANIFEST))
    assert make_word().run(tmp_path, {}).summary == {"letters": 4}


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be written")],
    ids=["full", "read-only"],
)
def test_disk_that_refuses_is_a_storage_error(make_word, tmp_path, number, words):
    """No space and no permission are exit code 5, name the place, and leave nothing that looks finished."""

    def refuse(*_):
        raise OSError(number, "refused")

    stage = make_word()
    stage.build = refuse
    with pytest.raises(StorageError, match=words) as caught:
        stage.run(tmp_path, {})
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.rglob(MANIFEST))


def test_disk_that_fills_up_while_sealing_leaves_no_manifest(make_word, tmp_path, monkeypatch):
    """The last write is no exception."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nano_think.core.files.sync", refuse)
    with pytest.raises(StorageError, match="no space left"):
        make_word().run(tmp_path, {})
    assert not list(tmp_path.rglob(MANIFEST)) and not list(tmp_path.rglob("*.tmp"))


def test_checkpoints_outlive_a_failure_while_sealing(make_word, tmp_path, monkeypatch):
    """Until there is a manifest the work is all there is; once there is, it is gone and not in it."""
    stage = make_word()
    build = stage.build

    def build_with_work(inputs, out, context):
        (out / WORK).mkdir(exist_ok=True)
        (out / WORK / "checkpoint").write_text("hours")
        return build(inputs, out, context)

    stage.build = build_with_work
    with monkeypatch.context() as patch:
        patch.setattr("nano_think.stages.stage.seal", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stage.run(tmp_path, {})
    assert [path.read_text() for path in tmp_path.rglob("checkpoint")] == ["hours"]
    made = stage.run(tmp_path, {})
    assert not list(tmp_path.rglob("checkpoint"))
    assert not [name for name in made.manifest["files"] if name.startswith(WORK)]


def test_manifest_tells_where_an_artifact_comes_from(make_word, tmp_path):
    """Configuration, inputs, code and time are in it; no path of this machine is."""
    moon = make_word("moon").run(tmp_path, {})
    manifest = make_word("take").run(tmp_path, {"x": moon}).manifest
    assert manifest["config"] == {"word": "take"}
    assert manifest["inputs"] == {"x": moon.reference()}
    assert manifest["modules"] == modules.read_modules("nano_think.core.rng")
    assert manifest["seconds"] >= 0 and manifest["finished"].endswith("+00:00")
    assert str(tmp_path) not in str(manifest)


def test_folder_that_another_is_still_making_is_left_alone(make_word, tmp_path, monkeypatch):
    """A cancelled run may go on on another machine of a cluster; who comes second is told, and writes nothing."""
    monkeypatch.setattr("nano_think.stages.stage.LEAVE_SECONDS", 0.01)
    stage = make_word()
    with making(stage.place(tmp_path, {}), "word"), pytest.raises(LockedError, match=r"word .* in use by process"):
        stage.run(tmp_path, {})
    assert not make_word.builds
    assert stage.run(tmp_path, {}).summary == {"letters": 4}


def test_what_another_has_finished_meanwhile_is_taken(make_word, tmp_path, monkeypatch):
    """Who has waited for a folder looks into it first."""
    stage = make_word()

    @contextlib.contextmanager
    def waits(path, name):
        (path / WORK).mkdir(parents=True)
        stage._build_and_seal(path, {}, Context())
        (path / WORK).mkdir()
        yield

    monkeypatch.setattr("nano_think.stages.stage.making", waits)
    made = stage.run(tmp_path, {})
    assert make_word.builds["moon"] == 1
    assert made.verify().summary == {"letters": 4} and not (made.path / WORK).exists()


def test_stage_refuses_code_that_the_run_did_not_begin_with(make_word, tmp_path):
    """As a process of a cluster that has loaded another version."""
    told = {"nano_think.core.rng": ("other bytes", "another meaning")}
    with pytest.raises(UsageError, match=r"core\.rng: edited"):
        make_word().run(tmp_path, {}, Context(modules=told))
    assert make_word().run(tmp_path, {}, Context(modules=tell_modules("nano_think.core.rng")))
