"""The map of concepts: what it shows, and the same in words."""

import re

from nano_think.report.concepts import domains_of, fullest, label, pictures


def found(cells: int = 40) -> dict:
    """A map whose cells are emptier and emptier."""
    told = [
        {
            "bits": f"{place:08b}", "column": place % 16, "row": place // 16, "pieces": 100 - place,
            "domains": {"sums" if place % 3 else "small <talk>": 99 - place, "spelling": 1}, "text": f" words\n{place}",
        }
        for place in range(cells)
    ]  # fmt: skip
    return {"length": 16, "pieces": sum(one["pieces"] for one in told), "cells": told}


def test_every_cell_is_drawn_in_the_shape_of_its_domain():
    wide, narrow = pictures(found(), 792.0, 272.0)
    for picture in (wide, narrow):
        # And one of each in the legend.
        assert len(re.findall(r'<g id="[^"]*PathCollection|<use ', picture)) >= 40
        assert 'role="img"' in picture and "small &lt;talk&gt;" in picture and "<talk>" not in picture
    assert [str(place) in re.findall(r">(\d+)</text>", wide) for place in (1, 12, 13)] == [True, True, False]


def test_the_map_is_the_same_for_the_same_data():
    assert pictures(found(), 792.0, 272.0) == pictures(found(), 792.0, 272.0)


def test_domains_are_in_the_order_of_their_size():
    assert domains_of(found()) == ["sums", "small <talk>", "spelling"]


def test_the_table_says_what_the_picture_shows():
    told = fullest(found())
    assert told and [row[0].text for row in told.rows] == [str(place) for place in range(1, 13)]
    assert [cell.text for cell in told.rows[1]] == ["2", "00000001", "99", "sums (99%)", "words 1"]
    assert "12 fullest of 40 cells" in told.caption and "3,220 pieces of up to 16 tokens" in told.caption
    assert "3,220 pieces" in label(found()) and "words 0" in label(found())


def test_a_map_of_one_cell_is_drawn():
    assert len(pictures(found(1), 792.0, 272.0)) == 2 and len(fullest(found(1)).rows) == 1
