"""What the router does, told: every group has its row, and chance is called chance."""

import pytest

from nano_think.report import ReportData, routing
from nano_think.report.page import render


def test_every_group_has_its_row(make):
    classes, positions, depths = routing.groups(make())
    assert classes.head == ["token predicted", "diffuser", "state space", "transformer", "tokens"]
    rows = [[cell.text for cell in row] for row in classes.rows]
    assert rows[1] == ["digits", "0.400", "0.333", "0.333", "1,235"]
    assert [row[0].text for row in positions.rows] == ["1", "2-3", "4-7", "8-15"] and len(depths.rows) == 3


def test_page_tells_the_information_and_what_chance_would_tell(make):
    page = render(make())
    assert "A token&#39;s weights tell 0.0312 bits of its document&#39;s domain, of 1.58" in page
    assert "0.0041 bits on average, and less than 0.0099 in 95% of 1,000 dealings: more than chance (p = 0.001)" in page


@pytest.mark.parametrize(("p", "verdict"), [(0.049, ": more than chance"), (0.05, ": no more than chance")])
def test_verdict_follows_p(make, p: float, verdict: str):
    data = make()
    data.results["routing"]["information"]["p"] = p
    assert verdict in routing.information(data)


def test_without_figures_there_is_a_sentence_and_nothing_is_drawn():
    data = ReportData(preset="nano", created="", experts=["a", "b"])
    assert routing.groups(data) == [] and "was not measured" in routing.information(data)
    assert routing.classes(data, 700) is routing.positions(data, 700) is routing.depths(data, 700) is None
