"""The picture of the graph."""

from nano_think.stages.graph import arrows, dot, draw, mermaid
from nano_think.stages.pipeline import load, plan
from tests.stages.graph import make_graph

DRAWN = """\
●    text
●    words
├─╮
● │  left
│ ●  right
├─╯
●    mix
●    page"""


def test_arrows_that_a_longer_way_says_are_left_out(make_word):
    """The page needs the words too, which the mix needs before."""
    assert arrows(make_graph(make_word))["page"] == ("mix",)


def test_drawing_has_a_line_for_each_node(make_word):
    """Lanes part and come together."""
    assert draw(arrows(make_graph(make_word))) == DRAWN


def test_lanes_cross_where_they_must():
    """A lane that goes on is crossed, not cut."""
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("a",), "e": ("b", "d"), "f": ("c", "e")}
    assert draw(needs).splitlines()[-4:] == ["├─┼─╯", "● │    e", "├─╯", "●      f"]


def test_every_arrow_is_in_the_text_forms():
    """Mermaid and Graphviz get the same arrows."""
    needs = arrows(plan(load("nano")))
    pairs = {(need, name) for name, before in needs.items() for need in before}
    assert {tuple(line.split(" --> ")) for line in mermaid(needs).replace("    ", "").splitlines()[1:]} == pairs
    lines = [line.strip(" ;").replace('"', "") for line in dot(needs).splitlines() if "->" in line]
    assert {tuple(line.split(" -> ")) for line in lines} == pairs
