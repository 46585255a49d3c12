"""Who scored what: the figures of an evaluation in one order, for the tables, the bars and the headline."""

from collections.abc import Mapping
from typing import Any

from nano_think.report.data import ReportData
from nano_think.report.words import known

ALL = "all text"
OURS = "mixture"


def expert_names(data: ReportData) -> list[str]:
    """The experts, also where only the results name them."""
    return list(data.experts or data.results.get("experts") or ())


def scores(figures: Mapping[str, Any], experts: list[str]) -> dict[str, float]:
    """Scorer -> bits per byte (lower is better): experts, plain average, mixture, dense; without what there is not."""
    values = {name: (figures.get("experts") or {}).get(name) for name in experts}
    values |= {"uniform": figures.get("uniform"), OURS: figures.get("bits_per_byte"), "dense": figures.get("dense")}
    return {name: value for name, value in values.items() if known(value)}


def claimed(data: ReportData) -> Mapping[str, Any]:
    """The figures that claims are made of: the calibrated ones, where there are any."""
    return data.results.get("calibrated") or data.results


def against(data: ReportData, other: str) -> Mapping[str, Any] | None:
    """The mixture's difference to "best_expert" or "dense" with its interval, where it was measured."""
    rows = (data.results.get("ablation") or {}).get("rows") or []
    return next((row["against"].get(other) for row in rows if row["scorer"] == OURS), None)


def by_domain(data: ReportData) -> dict[str, Mapping[str, Any]]:
    """The whole first, then each domain by name; empty where nothing was measured."""
    if not data.results:
        return {}
    return {ALL: data.results} | dict(sorted((data.results.get("domains") or {}).items()))


def best(values: Mapping[str, float]) -> str | None:
    """The scorer with the fewest bits."""
    return min(values, key=lambda name: values[name], default=None)


def best_expert(figures: Mapping[str, Any], experts: list[str]) -> tuple[str, float] | None:
    """The best single expert and its bits per byte."""
    alone = {name: value for name, value in scores(figures, experts).items() if name in experts}
    name = best(alone)
    return (name, alone[name]) if name else None


def routing(data: ReportData) -> dict[str, dict[str, float]]:
    """Domain -> expert -> mean weight, the whole first."""
    experts = expert_names(data)
    given = (data.results.get("routing") or {}).get("by_domain") or {
        domain: figures.get("weights") for domain, figures in (data.results.get("domains") or {}).items()
    }
    rows = {ALL: data.results.get("weights")} | dict(sorted(given.items()))
    kept = {
        domain: {name: row[name] for name in experts if known(row.get(name))} for domain, row in rows.items() if row
    }
    return {domain: row for domain, row in kept.items() if row}


def passes(data: ReportData) -> dict[str, float]:
    """Expert -> how often its training went over the text: its tokens over the tokens of the train split."""
    there = (data.tokens.get("train") or {}).get("tokens")
    seen = {name: data.curves[name][-1].get("tokens") for name in expert_names(data) if data.curves.get(name)}
    return {name: tokens / there for name, tokens in seen.items() if known(tokens) and there}
