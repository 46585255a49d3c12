"""The tables of an experiment, as Markdown, and the picture of its curves."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Any

from fits import Change


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first column is text."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def short(value: float) -> str:
    """12.3M, 4.56T."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def figure(values: Sequence[float]) -> str:
    """The mean over seeds, and the smallest and largest."""
    seeds = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{mean(values):.3f}{seeds}"


def told(against: Sequence[float] | None) -> str:
    return str(Change(*against)) if against else "–"


def systems_table(table: dict[str, Any]) -> list[str]:
    """Each system at its members' best epochs."""
    head = ("system", "bits per byte", "against dense at its best", "parameters", "training FLOPs", "epochs")
    rows = [
        [name, figure(row["bits_per_byte"]), told(row["against_dense"]), short(row["parameters"]), short(row["flops"]),
         f"{row['epochs']:.1f}"]
        for name, row in table["best"].items()
    ]  # fmt: skip
    pairs = (f"{one} against {other}: {told(against)}." for one, other, against in table["pairs"])
    return [*markdown(head, rows), "", " ".join(pairs), "", settings(table)]


def settings(table: dict[str, Any]) -> str:
    """What every model was trained with: the best of the grid at the first seed."""
    chosen = [
        f"{name} {one['layers']} layers of width {one['width']}, weight decay {one['weight_decay']:g}, dropout"
        f" {one['dropout']:g}"
        for name, one in sorted(table["settings"].items())
    ]
    text = table["text"]
    return f"{text['bytes']:,} bytes of text ({text['tokens']:,} tokens). Chosen by validation: {'; '.join(chosen)}."


def grid_table(table: dict[str, Any]) -> list[str]:
    """Every setting that was tried at the first seed, where its optimum lies, and in bold the one that was chosen."""
    head = ("model", "layers x width", "weight decay", "dropout", "lowest validation loss (nats)", "at epoch")
    rows = [
        [name, f"{one['layers']} x {one['width']}", f"{one['weight_decay']:g}", f"{one['dropout']:g}",
         f"**{one['validation']:.4f}**" if one["chosen"] else f"{one['validation']:.4f}",
         f"{one['epoch']} of {one['epochs']}"]
        for name, tried in table["grid"].items() for one in tried
    ]  # fmt: skip
    return markdown(head, rows)


def curve_table(table: dict[str, Any], ours: str = "T+T'+S") -> list[str]:
    """All systems at the same epochs; the last columns are of the mixture that has the dense model's parameters: beside
    it at the same epoch, and beside what it comes to, stopped early, with the FLOPs that the mixture took.
    """
    names = list(table["best"])
    rows = [
        [epoch, *(f"{mean(row[name]['bits_per_byte']):.3f}" if name in row else "–" for name in names),
         *(told(row[ours][which]) if ours in row else "–" for which in ("against_dense", "at_equal_flops"))]
        for epoch, row in table["epochs"].items()
    ]  # fmt: skip
    head = ("epochs", *names, f"{ours} against dense", "at equal FLOPs")
    return [*markdown(head, rows), "", catches_up(table, ours)]


def catches_up(table: dict[str, Any], ours: str) -> str:
    """From which epoch the mixture is below the dense model, and what the dense model, which may stop early, needs to
    reach its best.
    """
    rows = {int(epoch): row[ours] for epoch, row in table["epochs"].items() if ours in row}
    below = list(takewhile(lambda epoch: _is_below(rows[epoch]), sorted(rows, reverse=True)))
    best = table["best"][ours]
    goal = mean(best["bits_per_byte"])
    dense = [row["dense"] for row in table["epochs"].values()]
    reached = [row["flops"] for row in dense if mean(row["dense_stopped_early"]) <= goal]
    most = max(row["flops"] for row in dense)
    needs = (
        f"dense reaches its best with {min(reached) / best['flops']:.2f} times its FLOPs"
        if reached else f"dense does not reach its best with up to {most / best['flops']:.2f} times its FLOPs"
    )  # fmt: skip
    since = f"from epoch {min(below)} on" if below else "not at the last epoch"
    beside = "interval over documents, at the same epoch and beside dense stopped early within the same FLOPs"
    return f"{ours} is below dense {since} ({beside}), and {needs}."


def _is_below(row: dict[str, Any]) -> bool:
    """Whether the whole interval is, at the same epoch and, where that is known, beside dense stopped early within the
    same FLOPs.
    """
    found = [row["against_dense"], row["at_equal_flops"]]
    return all(Change(*one).high < 0 for one in found if one)


def picture(table: dict[str, Any], path: Path) -> None:
    """Bits per byte over training FLOPs."""
    pyplot = _pyplot()
    figure_, frame = pyplot.subplots(figsize=(7, 4.2))
    for name in table["best"]:
        rows = [row[name] for row in table["epochs"].values() if name in row]
        frame.plot([row["flops"] for row in rows], [mean(row["bits_per_byte"]) for row in rows], "o-", ms=3, label=name)
    frame.set_xscale("log")
    frame.xaxis.set_major_locator(pyplot.LogLocator(subs=(1, 2, 5)))
    frame.xaxis.set_major_formatter(pyplot.FuncFormatter(lambda value, _: short(value)))
    frame.xaxis.set_minor_formatter(pyplot.NullFormatter())
    frame.set_xlabel("training FLOPs")
    frame.set_ylabel("bits per byte, calibrated")
    frame.legend(frameon=False, fontsize=8, ncols=2)
    figure_.tight_layout()
    figure_.savefig(path)
    pyplot.close(figure_)


def dots(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Bits per byte of every scorer in every variant: the mean over seeds, and a line from the least to the most."""
    pyplot = _pyplot()
    variants, scorers = list(rows), list(next(iter(rows.values()))["bits_per_byte"])
    figure_, frame = pyplot.subplots(figsize=(7, 0.6 + 0.75 * len(variants)))
    for number, scorer in enumerate(scorers):
        seeds = [rows[variant]["bits_per_byte"][scorer] for variant in variants]
        heights = [place + 0.15 * (number - (len(scorers) - 1) / 2) for place in range(len(variants))]
        colour = f"C{number}"
        frame.plot([mean(one) for one in seeds], heights, "o", ms=5, color=colour, label=scorer)
        frame.hlines(heights, [min(one) for one in seeds], [max(one) for one in seeds], color=colour, lw=1.5)
    frame.set_yticks(range(len(variants)), variants)
    frame.set_ylim(len(variants) - 0.5, -0.5)
    frame.set_xlabel("bits per byte, calibrated")
    frame.grid(axis="x", alpha=0.3)
    frame.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure_.tight_layout()
    figure_.savefig(path)
    pyplot.close(figure_)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    return pyplot
