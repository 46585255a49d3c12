"""The run card and the tables, from artifacts of a real run."""

import re
from datetime import UTC, datetime

import pytest

from flows.card import ablation_rows, card, result_rows
from nano_think.core.progress import format_seconds
from nano_think.stages.artifact import open_artifact

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def artifacts(nano_run):
    return {name: open_artifact(nano_run.folder(name)) for name in nano_run.told.json["artifacts"]}


def test_card_tells_what_was_made_and_what_was_there(artifacts):
    """Every stage with its key; a stage that was up to date says why."""
    begun = datetime.fromisoformat(artifacts["router"].manifest["finished"])
    text = card("nano", {"seed": 1}, artifacts, begun, {"MLflow": "[x](http://y)"})
    assert text.startswith("# nano\n\nMixture **")
    assert f"| tokens | up to date: same settings, inputs and code | `{artifacts['tokens'].key}` |" in text
    took = format_seconds(artifacts["router"].manifest["seconds"])
    assert f"| router | made in {took} | `{artifacts['router'].key}` |" in text
    assert "- MLflow: [x](http://y)" in text and "```yaml\nseed: 1\n```" in text
    assert "public domain" in text


def test_card_is_no_block_of_code(artifacts):
    """Indented Markdown would be shown as code."""
    text = card("nano", {}, artifacts, NOW, {})
    assert not re.search(r"^ ", text.partition("```")[0], re.MULTILINE)


def test_card_of_a_part(artifacts):
    """Without results where nothing was evaluated."""
    text = card("nano-tokens", {}, {name: artifacts[name] for name in ("ingest", "tokens")}, NOW, {})
    assert "bits per byte" not in text and "| tokens |" in text


def test_rows_hold_the_results_figures(artifacts):
    results = artifacts["evaluate"].summary
    rows = {row["text"]: row for row in result_rows(results)}
    assert rows["all"]["mixture"] == round(results["bits_per_byte"], 4)
    assert rows["all"]["dense control"] == round(results["dense"], 4)
    assert set(rows) == {"all", *results["domains"]}
    compared = {row["model"]: row for row in ablation_rows(results)}
    assert (
        compared["mixture"]["against best expert"].endswith(")") and "%" in compared["mixture"]["against best expert"]
    )
