"""What MLflow keeps of a run beside its figures: datasets, samples, and which mixture leads."""

import json
from pathlib import Path

import pytest

from nano_think.stages.tracking import open_tracker
from nano_think.stages.tracking_records import CHAMPION, MODEL, crown, log_samples, log_text, register

SOURCES = [{"name": "kjv", "origin": "package 1.0", "licence": "public domain"}, {"name": "own", "origin": "a.jsonl"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all: making its tables takes seconds."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture
def run(store):
    """A run in the store."""
    opened = open_tracker(store, "toy")
    yield opened
    opened.end("FINISHED")


def versions(run):
    return {one.tags["digest"]: one.version for one in run.client.search_model_versions(f"name = '{MODEL}'")}


def leader(run):
    """The digest that the alias stands for."""
    return run.client.get_model_version_by_alias(MODEL, CHAMPION).tags["digest"]


def test_each_source_is_a_dataset_with_the_digest_of_the_text(run):
    """By name, with its licence; MLflow takes 36 letters of the digest."""
    log_text(run, [one | {"licence": one.get("licence")} for one in SOURCES], "d" * 64)
    inputs = run.client.get_run(run.run).inputs.dataset_inputs
    assert {one.dataset.name: one.dataset.digest for one in inputs} == {"kjv": "d" * 36, "own": "d" * 36}
    tags = {one.dataset.name: {tag.key: tag.value for tag in one.tags} for one in inputs}
    assert tags["kjv"] == {"mlflow.data.context": "training", "licence": "public domain"}


def test_samples_are_a_table(run):
    """A row for each prompt."""
    samples = [{"prompt": "In the", "text": "In the end", "seed": 1, "temperature": 0.8, "tokens": 1}]
    log_samples(run, samples)
    table = json.loads(Path(run.client.download_artifacts(run.run, "samples_table.json")).read_text())
    assert table["columns"] == ["prompt", "text", "seed", "temperature"]
    assert table["data"] == [["In the", "In the end", 1, 0.8]]


def test_mixture_is_registered_once(run, tmp_path):
    """A run that makes nothing anew makes no version; another mixture has its own. Nothing is copied."""
    verdict = {"moved": True, "why": "the first"}
    one = register(run, tmp_path / "one", "a" * 64, verdict)
    assert register(run, tmp_path / "one", "a" * 64, verdict) == one
    other = register(run, tmp_path / "other", "b" * 64, verdict)
    assert versions(run) == {"a" * 64: int(one), "b" * 64: int(other)}
    found = run.client.get_model_version(MODEL, one)
    assert found.source == (tmp_path / "one").as_uri() and found.tags["why"] == "the first"
    assert not (tmp_path / "one").exists()


def test_alias_follows_the_champion(run, tmp_path):
    """Also where an earlier run has failed to move it; again and again; and not to what is not registered."""
    for letter in "ef":
        register(run, tmp_path / letter, letter * 64, {})
    for letter, wanted in (("e", "e"), ("e", "e"), ("f", "f"), ("e", "e"), ("0", "e")):
        crown(run, letter * 64)
        assert leader(run) == wanted * 64
    crown(run, None)
    assert leader(run) == "e" * 64
