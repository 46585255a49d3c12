"""Finished runs: found, compared, the best of them kept, the rest removed."""

import json
import os

import pytest

from nano_think.core.errors import ArtifactError, UsageError
from nano_think.stages.artifact import CHAT_LATEST, MANIFEST, discard, seal, write_latest
from nano_think.stages.contest import compare, contend
from nano_think.stages.leavings import kept, removable
from nano_think.stages.runs import CHAMPION, champion, find_run, finished_runs
from tests.stages.finished_runs import make_run


def test_runs_are_found_by_key_folder_and_name(tmp_path):
    """And what is not there by the nearest."""
    run = make_run(tmp_path, "first")
    for what in (run.report.key, run.report.key[:15], str(run.report.path)):
        assert find_run(what, tmp_path).name == "first"
    write_latest(tmp_path, {"report": run.report})
    assert find_run("latest", tmp_path).name == "first"
    with pytest.raises(UsageError, match="no run 'champion'") as caught:
        find_run("champion", tmp_path)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(("bits", "better"), [(0.9, True), (0.9999, False), (1.1, False)])
def test_better_is_better_beyond_chance(tmp_path, bits, better):
    """The interval over documents lies below zero; the change is that of the sums."""
    verdict = compare(make_run(tmp_path, "other", bits), make_run(tmp_path, "first"))
    assert verdict.comparable and verdict.better is better
    assert verdict.change == pytest.approx(bits - 1, abs=1e-3)
    assert verdict.low <= verdict.change <= verdict.high


def test_other_documents_cannot_be_compared(tmp_path):
    """Neither of another text nor another choice of it."""
    first = make_run(tmp_path, "first")
    assert not compare(make_run(tmp_path, "other", 0.5, text="verse"), first).comparable
    assert not compare(make_run(tmp_path, "third", 0.5, documents=30), first).comparable


def test_champion_moves_only_to_what_is_better(tmp_path):
    """The first is the champion; a worse one, an equal one and one of other documents leave it; margin and interval are
    written down.
    """
    contend(make_run(tmp_path, "first"), tmp_path)
    assert contend(make_run(tmp_path, "first"), tmp_path)["why"] == "it is the champion"
    for name, bits, text in (("worse", 1.1, "text"), ("equal run", 1.0, "text"), ("elsewhere", 0.5, "verse")):
        assert not contend(make_run(tmp_path, name, bits, text), tmp_path)["moved"], name
        assert champion(tmp_path).name == "first"
    found = contend(make_run(tmp_path, "better", 0.9), tmp_path)
    assert found["moved"] and champion(tmp_path).name == "better"
    told = json.loads((tmp_path / CHAMPION).read_text())
    assert told["low"] < told["change"] < told["high"] < 0


def test_champion_that_cannot_be_read_stays_and_the_run_ends_well(tmp_path):
    """The verdict says which file; a champion that was removed gives way."""
    best, other = make_run(tmp_path, "first"), make_run(tmp_path, "other", 0.5)
    contend(best, tmp_path)
    (best.artifact("evaluate").path / "file").write_text("?")
    verdict = contend(other, tmp_path)
    assert not verdict["moved"] and verdict["damaged"] and "evaluate" in verdict["why"]
    (best.report.path / MANIFEST).write_text("{")
    assert contend(other, tmp_path)["damaged"]
    discard(best.report.path)
    assert contend(other, tmp_path)["why"] == "the first" and champion(tmp_path).name == "other"
    (tmp_path / CHAMPION).write_text("[]")
    assert contend(other, tmp_path)["damaged"]


def test_mixture_without_calibration_is_compared_without(tmp_path):
    """A sum of distributions has none."""
    verdict = compare(make_run(tmp_path, "other", 0.9, column="mixture"), make_run(tmp_path, "first"))
    assert verdict.better and not verdict.calibrated


def test_damaged_evaluation_is_not_compared(tmp_path):
    """The error names the file."""
    first, other = make_run(tmp_path, "first"), make_run(tmp_path, "other")
    file = other.artifact("evaluate").path / "file"
    file.write_text("?")
    with pytest.raises(ArtifactError, match=str(file)):
        compare(first, other)


@pytest.fixture
def root(tmp_path):
    """Three runs, the oldest of them the champion, the middle one superfluous."""
    for age, (name, bits) in enumerate({"best": 0.8, "middle": 1.0, "newest": 0.9}.items()):
        run = make_run(tmp_path, name, bits)
        contend(run, tmp_path)
        for stage in (*run.report.manifest["inputs"], "report"):
            os.utime(tmp_path / run.places[stage] / "manifest.json", (age, age))
    return tmp_path


def stages_of(paths):
    return sorted(path.parent.name for path in paths)


def test_gc_keeps_the_newest_the_champion_and_what_they_were_made_of(root):
    """Shared text stays; what only the middle run has goes."""
    assert [run.name for run in finished_runs(root)] == ["newest", "middle", "best"]
    gone = removable(root, 1, False)
    assert stages_of(gone) == ["evaluate", "report", "router"]
    assert not {path.parent.name for path in gone} & {"ingest"}
    assert removable(root, 1)[-1].parent.name == "report"
    assert stages_of(removable(root, 0, False)) == ["evaluate", "evaluate", "report", "report", "router", "router"]
    assert removable(root, 3, False) == []
    for path in gone:
        discard(path)
    assert champion(root).artifact("router") and finished_runs(root)[0].artifact("router")


def test_latest_is_kept_though_nothing_else_asks_for_it(root):
    """A model in use is not removed."""
    middle = finished_runs(root)[1]
    write_latest(root, {"router": middle.artifact("router")})
    assert root / middle.places["router"] in kept(root, 1)


def make(root, stage, number, inputs):
    """A finished artifact that no report refers to."""
    path = root / stage / f"{number:016x}"
    path.mkdir(parents=True)
    (path / "file").write_text(str(number))
    return seal(path, stage, path.name, {"inputs": {"evaluate": inputs.reference()}})


def test_finished_work_of_a_run_without_a_report_stays(root):
    """With what it was made of, until it is asked for; a chat model that is the newest stays even then."""
    old = finished_runs(root)[1].artifact("evaluate")
    alone, chat = make(root, "transformer", 1, old), make(root, "sft", 2, old)
    write_latest(root, {"sft": chat}, CHAT_LATEST)
    assert not {alone.path, chat.path, old.path} & set(removable(root, 1))
    gone = set(removable(root, 1, unreported=True))
    assert alone.path in gone and not {chat.path, old.path} & gone


def test_what_a_half_made_training_goes_on_with_stays(root):
    """Its job names its inputs; they go when it does."""
    middle = finished_runs(root)[1].artifact("router")
    work = root / "transformer" / "0123456789abcdef" / "work"
    work.mkdir(parents=True)
    (work / "job.json").write_text(json.dumps({"inputs": {"router": str(middle.path.resolve())}}))
    assert middle.path not in removable(root, 1)
    assert {middle.path, work.parent} <= set(removable(root, 1, half_made=True))


def test_half_made_and_foreign_folders(root):
    """A checkpoint is lost only if that is asked for; conversations and other folders never are."""
    for name in ("router/0123456789abcdef", f"memory/{'a' * 64}", "notes/mine"):
        (root / name / "work").mkdir(parents=True)
    assert not [path for path in removable(root, 3, False) if not (path / "manifest.json").exists()]
    assert removable(root, 3, True) == [root / "router/0123456789abcdef"]


def test_torn_manifest_stops_gc(root):
    """What it needs would not be known."""
    (root / finished_runs(root)[0].places["router"] / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        removable(root, 1, False)
