"""Artifacts: finished or not, whole or not, found by name or by path."""

import json
import os
import shutil

import pytest

from nano_think.core.errors import ArtifactError, UsageError
from nano_think.stages import artifact as artifact_module
from nano_think.stages.artifact import ancestor, discard, find_model, open_artifact, seal, write_latest


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "toy" / "key"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("alpha")
    (folder / "deep" / "b.txt").write_text("beta")
    return seal(folder, "toy", "key", {"summary": {"n": 2}})


def test_sealed_folder_opens_as_what_it_was(artifact):
    """The manifest holds stage, key, digest and summary."""
    found = open_artifact(artifact.path)
    assert found == artifact
    assert found.summary == {"n": 2}
    assert found.verify() is found


def test_digest_is_of_the_contents_alone(artifact, tmp_path):
    """A copy elsewhere, under another key, made later, has the same digest; another content has another."""
    other = tmp_path / "elsewhere"
    shutil.copytree(artifact.path, other)
    assert seal(other, "toy", "other", {}).digest == artifact.digest
    (other / "a.txt").write_text("gamma")
    assert seal(other, "toy", "other", {}).digest != artifact.digest


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_text("alph"), "wanted 5 bytes, got 4"),
        (lambda path: path.write_text("alpha!"), "wanted 5 bytes, got 6"),
        (lambda path: path.write_text("Alpha"), "sha256 wanted"),
    ],
    ids=["gone", "cut", "grown", "flipped"],
)
def test_verify_names_the_damaged_file(artifact, damage, words):
    """Whatever happened to a file, the error names it and says what was wanted."""
    damage(artifact.path / "a.txt")
    with pytest.raises(ArtifactError, match=words) as caught:
        artifact.verify()
    assert str(artifact.path / "a.txt") in str(caught.value)


def test_temporary_files_are_no_part_of_an_artifact(artifact):
    """What a crash left half-written, with a leading dot, is not in the manifest."""
    (artifact.path / ".a.txt.123.tmp").write_text("torn")
    assert seal(artifact.path, "toy", "key", {}).digest == artifact.digest


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stage": "toy"}', "nul\0l"])
def test_torn_manifest_is_an_artifact_error(artifact, text):
    """A manifest that is not one is named, in one line."""
    (artifact.path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json") as caught:
        open_artifact(artifact.path)
    assert "\n" not in str(caught.value)


def test_every_file_is_on_the_disk_before_the_manifest(artifact, monkeypatch):
    """Whoever wrote it: a library's parquet or picture survives a power cut too."""
    done, write = [], artifact_module.write_json
    monkeypatch.setattr(artifact_module, "sync", lambda path: done.append(path))
    monkeypatch.setattr(artifact_module, "write_json", lambda path, value: (done.append(path), write(path, value)))
    (artifact.path / "work").mkdir()
    (artifact.path / "work" / "checkpoint").write_text("on its way")
    seal(artifact.path, "toy", "key", {}, leave_out="work")
    names = [path.relative_to(artifact.path).as_posix() for path in done]
    assert names == ["a.txt", "deep/b.txt", "deep", ".", "manifest.json"]


def test_discarded_folder_is_gone(artifact):
    """Nothing of it is left."""
    discard(artifact.path)
    assert not artifact.path.exists()


def test_single_files_can_be_verified(artifact):
    """Only what is about to be read need be hashed."""
    one, other = sorted(artifact.manifest["files"])[:2]
    (artifact.path / other).write_bytes(b"damaged")
    assert artifact.verify(one) is artifact
    with pytest.raises(ArtifactError, match=other):
        artifact.verify(one, other)


def line(root, *stages):
    """Artifacts of which each was made from the one before."""
    made = None
    for stage in stages:
        path = root / stage / f"key-of-{stage}"
        path.mkdir(parents=True)
        (path / "file").write_text(stage)
        inputs = {made.stage: made.reference()} if made else {}
        made = seal(path, stage, path.name, {"inputs": inputs})
    return made


def test_ancestors_are_found_beside(tmp_path):
    """By the names of the inputs, along the manifests."""
    last = line(tmp_path, "ingest", "tokens", "router")
    found = ancestor(last, "tokens", "ingest")
    assert found and (found.stage, found.path) == ("ingest", tmp_path / "ingest/key-of-ingest")
    assert ancestor(last, "tokens", "embedding") is None
    assert ancestor(last) == last


def test_ancestor_that_is_gone_or_another_is_none(tmp_path):
    """A folder that was removed, or that holds other contents under the same key, is not what the model was made of."""
    last = line(tmp_path, "ingest", "tokens", "router")
    place = tmp_path / "ingest/key-of-ingest"
    (place / "file").write_text("other")
    seal(place, "ingest", place.name, {"inputs": {}})
    assert ancestor(last, "tokens", "ingest") is None
    discard(place)
    assert ancestor(last, "tokens", "ingest") is None


@pytest.mark.parametrize("stage", ["../outside/tokens", "tokens/../../outside/tokens", "{outside}"])
def test_manifest_cannot_lead_out_of_the_root(tmp_path, stage):
    """Whatever a manifest says, only the root that it lies in is looked at."""
    outside = line(tmp_path / "outside", "tokens")
    assert outside
    path = tmp_path / "root/router/key"
    path.mkdir(parents=True)
    wanted = outside.reference() | {"stage": stage.format(outside=tmp_path / "outside/tokens")}
    model = seal(path, "router", "key", {"inputs": {"tokens": wanted}})
    assert ancestor(model, "tokens") is None


@pytest.fixture
def model(tmp_path):
    """A router and a memory that was built for it, under a root of their own."""
    parts = {}
    for stage in ("router", "memory"):
        folder = tmp_path / "root" / stage / "k1"
        folder.mkdir(parents=True)
        (folder / "x").write_text(stage)
        inputs = {"router": parts["router"].reference()} if parts else {}
        parts[stage] = seal(folder, stage, "k1", {"inputs": inputs})
    return parts


def test_latest_is_what_the_last_run_made(model, tmp_path):
    """`latest` finds the model and its memory."""
    write_latest(tmp_path / "root", model)
    assert find_model("latest", tmp_path / "root") == (model["router"], model["memory"])


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_model_by_its_path_brings_its_memory(model, monkeypatch, relative):
    """The folder of a router is enough, given in either way; the memory built for it is found beside it."""
    place = model["router"].path
    monkeypatch.chdir(place.parent)
    found, memory = find_model("k1" if relative else str(place), place)
    assert (found.digest, memory.digest) == (model["router"].digest, model["memory"].digest)


def test_memory_of_another_model_is_not_taken(model):
    """Memory entries are in the space of one model."""
    (model["router"].path / "x").write_text("another")
    seal(model["router"].path, "router", "k1", {"inputs": {}})
    assert find_model(str(model["router"].path), model["router"].path)[1] is None


def test_no_model_yet(tmp_path):
    """Before the first run the message says how to make a model."""
    with pytest.raises(UsageError, match="nano-think run --root"):
        find_model("latest", tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"router": "router/k1"}', "{"])
def test_torn_latest_is_an_artifact_error(tmp_path, text):
    """latest.json that names no model is named itself."""
    (tmp_path / "latest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"latest\.json"):
        find_model("latest", tmp_path)


@pytest.mark.parametrize(
    ("place", "kind", "words"),
    [
        ("nowhere", UsageError, "no such folder"),
        ("empty", ArtifactError, "manifest"),
        ("memory/k1", UsageError, "holds the artifact of the stage 'memory'"),
    ],
)
def test_path_that_is_no_model(model, tmp_path, place, kind, words):
    """A missing folder, one without a manifest, and another stage's artifact are told apart."""
    root = tmp_path / "root"
    (root / "empty").mkdir()
    with pytest.raises(kind, match=words):
        find_model(str(root / place), root)


def test_model_that_vanished_is_named(model, tmp_path):
    """latest.json outlives a model that somebody removed: the error names the folder."""
    write_latest(tmp_path / "root", model)
    shutil.rmtree(model["router"].path)
    with pytest.raises(ArtifactError, match="router"):
        find_model("latest", tmp_path / "root")


def test_manifest_is_written_last(tmp_path, monkeypatch):
    """A crash while the manifest is written leaves a folder that does not look finished."""

    def crash(*_):
        raise KeyboardInterrupt

    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        seal(tmp_path, "toy", "key", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_manifest_is_plain_json(artifact):
    """Anybody can read what made an artifact."""
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["files"].keys() == {"a.txt", "deep/b.txt"}
