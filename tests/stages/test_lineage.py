"""From an artifact back to the text."""

import pytest

from nano_think.core.errors import ArtifactError, UsageError
from nano_think.stages.artifact import discard, seal, write_latest
from nano_think.stages.lineage import find_artifact, sources, trace
from tests.stages.graph import EDGES, make_graph, run_graph


@pytest.fixture
def made(make_word, tmp_path):
    """The artifacts of a finished run of the toy graph."""
    return run_graph(make_graph(make_word), tmp_path)


def test_all_that_it_was_made_of_comes_after_it(made):
    """Each once, with the names of its inputs."""
    links = trace(made["page"])
    assert next(iter(links.values())).artifact.stage == "page"
    assert {link.artifact.stage for link in links.values()} == set(EDGES)
    order = list(links)
    for place, link in links.items():
        assert set(link.inputs) == set(EDGES[link.artifact.stage])
        assert all(order.index(other) > order.index(place) for other in link.inputs.values())


def test_lineage_of_the_left_has_nothing_of_the_right(made):
    """Only what was used."""
    assert {link.artifact.stage for link in trace(made["left"]).values()} == {"left", "words", "text"}


@pytest.mark.parametrize("name", EDGES)
def test_damage_on_the_way_is_named(made, name):
    """Whichever artifact it is in."""
    file = made[name].path / "word.txt"
    file.write_text("?" + file.read_text()[1:])
    with pytest.raises(ArtifactError) as caught:
        trace(made["page"])
    assert str(file) in str(caught.value)


def test_another_artifact_in_its_place_is_named(made):
    """The same key with other contents is not what was used."""
    words = made["words"]
    (words.path / "word.txt").write_text("others")
    seal(words.path, "words", words.key, {"inputs": {"text": made["text"].reference()}, "summary": {}})
    with pytest.raises(ArtifactError, match=f"{words.path}: digest"):
        trace(made["page"])
    discard(words.path)
    with pytest.raises(ArtifactError, match=r"words.*missing"):
        trace(made["page"])


def test_artifact_is_found_by_folder_key_and_stage(made, tmp_path):
    """And by the beginning of a key; what is not there is answered with the nearest name."""
    page = made["page"]
    write_latest(tmp_path, made)
    for what in (str(page.path), f"page/{page.key}", f"page/{page.key[:6]}", page.key, "page"):
        assert find_artifact(what, tmp_path).digest == page.digest
    with pytest.raises(UsageError, match=r"no artifact 'pgae'.*Did you mean 'page'"):
        find_artifact("pgae", tmp_path)
    with pytest.raises(UsageError, match="6 begin so"):
        find_artifact("", tmp_path)


@pytest.mark.parametrize("what", ["/tmp/typo", "../*", "*/", "**/a"])
def test_name_of_nothing_is_refused_in_a_line(made, tmp_path, what):
    """It is compared, and never taken for a pattern."""
    with pytest.raises(UsageError, match="no artifact"):
        find_artifact(what, tmp_path)


def test_text_is_told(made):
    """What has no inputs names its sources."""
    assert list(sources(trace(made["page"]))) == []
    path = made["text"].path
    seal(path, "text", made["text"].key, {"summary": {"sources": [{"name": "kjv"}]}, "inputs": {}})
    assert list(sources(trace(made["page"]))) == [{"name": "kjv"}]
