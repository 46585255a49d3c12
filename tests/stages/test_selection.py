"""Parts of the graph by the names of stages."""

import pytest

from nano_think.core.errors import UsageError
from nano_think.stages.pipeline import load, plan
from nano_think.stages.selection import Selection, ancestors, descendants
from tests.stages.graph import make_graph


@pytest.fixture
def nodes(make_word):
    return make_graph(make_word)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ({}, "text words left right mix page"),
        ({"first": ("left",)}, "left mix page"),
        ({"until": ("left",)}, "text words left"),
        ({"first": ("words",), "until": ("mix",)}, "words left right mix"),
        ({"first": ("left", "right")}, "left right mix page"),
        ({"only": ("mix",)}, "mix"),
        ({"only": ("page", "left"), "force": ("page",)}, "left page"),
    ],
    ids=str,
)
def test_parts_go_by_the_graph(nodes, wanted, chosen):
    """Descendants and ancestors, not places in a list, in the order in which they can be made."""
    assert " ".join(Selection(**wanted).choose(nodes)) == chosen


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"first": ("mxi",)}, "unknown stage 'mxi'. Did you mean 'mix'?"),
        ({"only": ("mix",), "first": ("left",)}, "--only cannot be combined"),
        ({"first": ("left",), "until": ("right",)}, "no stage is both after left and before right"),
        ({"only": ("mix",), "force": ("left",)}, "--force left: not among the stages of this run (mix)"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(nodes, wanted, words):
    """In one line."""
    with pytest.raises(UsageError) as caught:
        Selection(**wanted).choose(nodes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_memory_does_not_follow_from_the_evaluation():
    """On the real graph: what comes later in the list need not come after."""
    nodes = plan(load("nano"))
    assert descendants(nodes, ["memory"]) == {"memory", "evaluate", "report"}
    assert ancestors(nodes, ["transformer"]) == {"transformer", "embedding", "tokens", "tokenizer", "ingest"}
