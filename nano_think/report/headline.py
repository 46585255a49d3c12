"""What a reader should take away first, in words that follow the sign of the figures."""

from nano_think.report import scores as scored
from nano_think.report import words
from nano_think.report.data import ReportData


def headline(data: ReportData) -> str:
    """The mixture against its best expert and the plain average."""
    experts, figures = scored.expert_names(data), scored.claimed(data)
    values = scored.scores(figures, experts)
    if scored.OURS not in values:
        return "This run holds no evaluation of the mixture."
    ours, against = values[scored.OURS], []
    found = scored.best_expert(figures, experts)
    if found:
        against.append(f"{words.apart(ours, found[1])} {_than(ours, found[1])} its best single expert, the "
                       f"{words.name(found[0])} ({words.fixed(found[1])}{_interval(data, 'best_expert')})")  # fmt: skip
    if "uniform" in values:
        uniform = values["uniform"]
        against.append(
            f"{words.apart(ours, uniform)} {_than(ours, uniform)} the plain average ({words.fixed(uniform)})"
        )
    tail = f": {', and '.join(against)}" if against else ""
    alike = ", calibrated as all models here" if _calibrated(data) else ""
    return f"The mixture reads held-out text at {words.fixed(ours)} bits per byte{alike}{tail}; memory off."


def _calibrated(data: ReportData) -> bool:
    return bool(data.results.get("calibrated"))


def _interval(data: ReportData, other: str) -> str:
    """The 95% interval of the mixture's difference, as a remark."""
    found = scored.against(data, other)
    if not found:
        return ""
    low, high = (f"{found[key]:+.1%}".replace("-", "−") for key in ("low", "high"))
    return f"; 95% interval {low} to {high}"


def _than(value: float, other: float) -> str:
    return "as" if words.apart(value, other).startswith("the same") else "than"


def dense(data: ReportData) -> str:
    """The mixture against one dense model of equal cost, or that there is no such figure."""
    values = scored.scores(scored.claimed(data), scored.expert_names(data))
    if "dense" not in values or scored.OURS not in values:
        calibration = (
            ""
            if _calibrated(data)
            else (
                " It also had the routing text and one learned scale, which no single expert had: "
                "part of its lead may be calibration."
            )
        )
        return (
            "Dense control: not measured in this run. Nothing here says that the mixture is better than one dense "
            f"model of equal size and training cost.{calibration}"
        )
    ours, control = values[scored.OURS], values["dense"]
    return (
        f"Dense control, one transformer of equal parameters and equal training FLOPs: {words.fixed(control)}; the "
        f"mixture is {words.apart(ours, control)} {_than(ours, control)} it{_interval(data, 'dense')}."
    )


def calibration(data: ReportData) -> str:
    """How the columns of the ablation are to be read."""
    if not _calibrated(data):
        return "Not calibrated in this run."
    return (
        "Calibrated means with two numbers of its own, fitted on the validation split alike for every model: a "
        "scale of its logits and a coefficient of the unigram bias. Differences are of calibrated bits per byte; "
        "their intervals are percentiles over 1,000 resamples of the test documents, the same for all rows, and "
        "say nothing about other seeds of the training. Static weights are one set for all tokens, fitted on the "
        "routing split. Without an expert means the router as it was trained, that expert's weight removed and "
        "the others' divided by their sum. The oracle takes the best expert of each token and is no model."
    )


def cost(data: ReportData) -> str:
    """How the columns of costs are to be read."""
    return (
        "Parameters are those that are trained; the shared token table is everybody's. FLOPs are those of matrix "
        "products, forward and backward, counted by one rule for all; a scan that is no matrix product and "
        "everything elementwise are not counted. Trainings that ran side by side shared the machine and are each "
        "counted in full; the dense control had it to itself. The critical path is the time from text to the model "
        "if experts train side by side: what comes before them, the longest of them, and what comes after."
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
            "their values dealt out anew: a gain that survives it is no memory." + _beyond(data)
        )
    return "Memory: not measured in this run."


def _beyond(data: ReportData) -> str:
    """What remembering changes where the model cannot look back; empty where that was not measured."""
    found = data.results.get("beyond_window")
    if not found:
        return ""
    memory, shuffled = (
        "{change:+.1%} ({low:+.1%} to {high:+.1%})".format(**found[name]).replace("-", "\u2212")
        for name in ("memory", "shuffled")
    )
    return (
        f" Behind the first window of the {found['documents']} documents that are longer, remembering all earlier "
        f"windows changes the bits by {memory}, with values shuffled by {shuffled}."
    )


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
    claimed = scored.claimed(data)
    alone, control = scored.best_expert(claimed, experts), claimed.get("dense")
    whole = data.parameters.get("whole")
    rows = [
        ("mixture", words.fixed(claimed.get("bits_per_byte")), "bits per byte"),
        ("best expert", words.fixed(alone[1]), words.name(alone[0])) if alone else None,
        ("dense control", words.fixed(control), "equal cost") if words.known(control) else None,
        ("parameters", words.short(whole), f"{len(experts)} experts") if whole else None,
        (
            "text scored",
            words.size(data.results.get("bytes")),
            f"{words.count(data.results.get('documents'))} documents",
        ),
        ("time", words.seconds(data.seconds), _stages(data)),
    ]
    return [row for row in rows if row and row[1] != words.NOTHING]
