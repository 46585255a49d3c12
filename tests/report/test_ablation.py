"""The ablation table says everything about every row, and marks what is no model."""

import pytest

from nano_think.report import ReportData, ablation
from nano_think.report.costs import costs, matched
from nano_think.report.pictures import NARROW, WIDE, picture

ROWS = [
    "diffuser", "state space", "transformer", "plain average", "static weights", "mixture without the diffuser",
    "mixture (the router)", "dense control", "mixture + persistent memory", "the same, values shuffled (control)",
    "mixture + scratch memory", "the same, values shuffled (control)", "oracle (not a model)",
]  # fmt: skip


def test_table_is_complete(make):
    """All rows in order; every row but the oracle's has its costs; the best model is marked, which is neither the
    oracle nor one with a memory.
    """
    table = ablation.ablation(make())
    assert table and [row[0].text for row in table.rows] == ROWS
    assert all(len(row) == len(table.head) for row in table.rows)
    empty = [row[0].text for row in table.rows if row[5].text == "–"]
    assert empty == ["oracle (not a model)"]
    assert [row[0].text for row in table.rows if any(cell.best for cell in row)] == ["dense control"]


def test_differences_have_their_intervals(make):
    table = ablation.ablation(make())
    (row,) = [row for row in table.rows if row[0].text == "mixture (the router)"] if table else []
    assert row[3].text == "−2.30% (−2.70 to −1.90)"
    assert row[4].text == "+4.34% (+3.94 to +4.74)"


def test_costs_by_hand():
    """Sums over the parts; the critical path waits for the longest expert alone."""
    parameters = {"a": 10, "diffuser": 20, "router": 3, "dense": 33}
    flops = {"a": 1.0, "diffuser": 2.0, "router": 0.5, "dense": 3.5}
    seconds = {"ingest": 1.0, "embedding": 2.0, "a": 5.0, "diffuser": 7.0, "router": 4.0, "memory": 0.5, "dense": 9.0}
    found = costs(["a", "diffuser"], parameters, flops, seconds)
    assert found["a"] == {"parameters": 10, "flops": 1.0, "seconds": 5.0, "critical": 8.0}
    assert found["uniform"] == {"parameters": 30, "flops": 3.0, "seconds": 12.0, "critical": 10.0}
    assert found["mixture"] == {"parameters": 33, "flops": 3.5, "seconds": 16.0, "critical": 14.0}
    assert found["without_diffuser"] == {"parameters": 13, "flops": 1.5, "seconds": 9.0, "critical": 12.0}
    assert found["persistent"]["critical"] == 14.5 and found["scratch"] == found["mixture"]
    assert found["dense"] == {"parameters": 33, "flops": 3.5, "seconds": 9.0, "critical": 12.0}
    rivals = {"router_second": ["a", "a_2"]}
    parameters, seconds = parameters | {"a_2": 10, "router_second": 2}, seconds | {"a_2": 6.0, "router_second": 3.0}
    more = costs(["a", "diffuser"], parameters, flops, seconds, rivals)["router_second"]
    assert more == {"parameters": 22, "flops": 1.0, "seconds": 14.0, "critical": 12.0}
    assert "dense" not in costs(["a"], {"a": 1}, {"a": 1.0}, {"a": 1.0, "router": 1.0})


def test_control_shows_what_it_is_equal_in(make):
    table = ablation.control(make())
    assert table and [[cell.text for cell in row] for row in table.rows] == [
        ["trained parameters", "2.37M", "2.38M", "+0.44%"],
        ["training FLOPs", "20.5T", "20.5T", "+0.00%"],
    ]
    assert "7 layers with 2 heads and an inner width of 608, trained on 1.28M tokens" in ablation.shape(make())
    assert matched({}) == [] and ablation.control(make(dense={})) is None and ablation.shape(make(dense={})) == ""


def test_markdown_is_a_table(make):
    table = ablation.ablation(make())
    assert table
    head, rule, *rows = ablation.markdown(table).splitlines()
    assert head.startswith("| model | calibrated | plain |") and rule.count("---") == len(table.head)
    assert len(rows) == len(ROWS) + 2 and "| **1.990** |" in rows[7]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_picture_shows_models_and_leaves_memories_out(make, width):
    drawn = picture(make(), "ablation", width)
    assert drawn and "plain average" in drawn and "dense control" in drawn
    assert "oracle" not in drawn and "memory" not in drawn


def test_nothing_measured_nothing_shown():
    data = ReportData(preset="nano", created="")
    assert ablation.ablation(data) is None and ablation.differences(data, WIDE) is None


@pytest.mark.parametrize(
    ("training", "told"),
    [({}, False), ({"order": "same", "lean": 1.0}, False), ({"order": "own"}, True), ({"lean": 3}, True)],
)
def test_experts_of_different_text_are_told(make, training, told):
    """A table of such experts says that it does not compare their kinds."""
    caption = ablation.ablation(make(config={"pretrain": training})).caption
    assert ("not read the same windows" in caption) == told
