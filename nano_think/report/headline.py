"""What a reader should take away first, in words that follow the sign of the figures."""

from nano_think.report import scores as scored
from nano_think.report import words
from nano_think.report.data import ReportData


def headline(data: ReportData) -> str:
    """The mixture against its best expert and the plain average."""
    experts = scored.expert_names(data)
    values = scored.scores(data.results, experts)
    if scored.OURS not in values:
        return "This run holds no evaluation of the mixture."
    ours, against = values[scored.OURS], []
    found = scored.best_expert(data.results, experts)
    if found:
        against.append(f"{words.apart(ours, found[1])} {_than(ours, found[1])} its best single expert, the "
                       f"{words.name(found[0])} ({words.fixed(found[1])})")  # fmt: skip
    if "uniform" in values:
        uniform = values["uniform"]
        against.append(
            f"{words.apart(ours, uniform)} {_than(ours, uniform)} the plain average ({words.fixed(uniform)})"
        )
    tail = f": {', and '.join(against)}" if against else ""
    return f"The mixture reads held-out text at {words.fixed(ours)} bits per byte{tail}; memory off."


def _than(value: float, other: float) -> str:
    return "as" if words.apart(value, other).startswith("the same") else "than"


def dense(data: ReportData) -> str:
    """The mixture against one dense model of equal cost, or that there is no such figure."""
    values = scored.scores(data.results, scored.expert_names(data))
    if "dense" not in values or scored.OURS not in values:
        return (
            "Dense control: not measured in this version. "
            "Nothing here says that the mixture is better than one dense model of equal size and training cost. "
            "It also had the routing text and one learned scale, which no single expert had: "
            "part of its lead may be calibration."
        )
    ours, control = values[scored.OURS], values["dense"]
    return (
        f"Dense control: {words.fixed(control)}; the mixture is {words.apart(ours, control)} {_than(ours, control)} it."
    )


def regime(data: ReportData) -> str:
    """How often the text was gone over: a result in one regime says nothing about another."""
    found = scored.passes(data)
    if not found:
        return "Regime: how often the experts went over the text is not known for this run."
    available = words.short((data.tokens.get("train") or {}).get("tokens"))
    rounded = {f"{count:.2f}" for count in found.values()}
    if len(rounded) == 1:
        budget = words.short(data.curves[next(iter(found))][-1].get("tokens"))
        return (
            f"Regime: each expert was trained on {budget} tokens, {rounded.pop()} passes over the {available} tokens "
            "of the train split."
        )
    each = words.listed([f"{words.name(name)} {count:.2f}" for name, count in found.items()])
    return f"Regime: passes over the {available} tokens of the train split: {each}."


def text(data: ReportData) -> str:
    """Which datasets that were asked for are not what was read; empty where all are."""
    replaced = [
        f"{source.get('name')} is read in the place of {words.listed([str(one) for one in source['stands_in_for']])}"
        for source in data.sources
        if source.get("stands_in_for")
    ]
    missing = [str(one.get("name")) for one in data.left_out]
    if missing:
        replaced.append(f"{words.listed(missing)} {'is' if len(missing) == 1 else 'are'} left out")
    return f"Not the text that was asked for: {'; '.join(replaced)}." if replaced else ""


def memory(data: ReportData) -> str:
    """How the table of the memory is to be read, or that there is none."""
    if data.results.get("memory"):
        return (
            "Scratch memory holds one document's own earlier tokens and is dropped at its end; persistent memory was "
            "built beforehand, from text that is not scored here. The shuffled control reads the same entries with "
            "their values dealt out anew: a gain that survives it is no memory."
        )
    return "Memory: not measured in this run."


def duration(data: ReportData) -> str:
    """All stages together; trainings that ran side by side are each counted in full where the parts are summed."""
    if data.seconds is None:
        return "The time of the whole run was not taken."
    parts = ", each counted in full although trainings run side by side" if summed(data) else ""
    return f"All stages together: {words.seconds(data.seconds)}{parts}."


def summed(data: ReportData) -> bool:
    """Whether the whole run's time is the sum of its stages' rather than a wall clock of its own."""
    parts = sum(stage.get("seconds") or 0 for stage in data.times.values())
    return data.seconds is not None and len(data.times) > 1 and abs(parts - data.seconds) < 0.5


def _stages(data: ReportData) -> str:
    return f"{'sum of ' * summed(data)}{len(data.times)} stages" if data.times else ""


def figures(data: ReportData) -> list[tuple[str, str, str]]:
    """(name, value, unit or remark) of the few numbers that stand at the top."""
    experts = scored.expert_names(data)
    alone = scored.best_expert(data.results, experts)
    whole = data.parameters.get("whole")
    rows = [
        ("mixture", words.fixed(data.results.get("bits_per_byte")), "bits per byte"),
        ("best expert", words.fixed(alone[1]), words.name(alone[0])) if alone else None,
        ("parameters", words.short(whole), f"{len(experts)} experts") if whole else None,
        (
            "text scored",
            words.size(data.results.get("bytes")),
            f"{words.count(data.results.get('documents'))} documents",
        ),
        ("time", words.seconds(data.seconds), _stages(data)),
    ]
    return [row for row in rows if row and row[1] != words.NOTHING]
