"""The ablation table and its picture: what each part is worth, beside what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nano_think.report import scores as scored
from nano_think.report import words
from nano_think.report.costs import matched
from nano_think.report.data import ReportData
from nano_think.report.palette import INK, LINE, MUTED, colour_of
from nano_think.report.plots import PHONE, fit
from nano_think.report.svg import FONT, axes, canvas
from nano_think.report.tables import Cell, Table, number, table

NAMES = {
    "uniform": "plain average",
    "static": "static weights",
    "mixture": "mixture (the router)",
    "router_static": "router: static, trained",
    "router_mean": "router: running mean",
    "router_token": "router: token",
    "router_expert": "router: token and experts",
    "router_second": "second transformer for the diffuser",
    "oracle": "oracle (not a model)",
    "persistent": "mixture + persistent memory",
    "persistent_shuffled": "the same, values shuffled (control)",
    "scratch": "mixture + scratch memory",
    "scratch_shuffled": "the same, values shuffled (control)",
    "scratch_trained": "mixture + trained scratch memory",
    "scratch_trained_shuffled": "the same, values shuffled (control)",
    "persistent_slots": "mixture + persistent memory as slots",
    "persistent_slots_shuffled": "the same, values shuffled (control)",
    "scratch_slots": "mixture + scratch memory as slots",
    "scratch_slots_shuffled": "the same, values shuffled (control)",
    "dense": "dense control",
}
WITH_MEMORY = ("persistent", "persistent_slots", "scratch", "scratch_slots", "scratch_trained")
CONTROLS = tuple(f"{name}_shuffled" for name in WITH_MEMORY)
NOT_MODELS = ("oracle", *CONTROLS)
LAST = ("mixture", "dense", *(row for name in WITH_MEMORY for row in (name, f"{name}_shuffled")), "oracle")
HEAD = (
    "model", "calibrated", "plain", "against best expert", "against dense", "parameters", "training FLOPs",
    "trainings", "critical path",
)  # fmt: skip


def title(scorer: str) -> str:
    """What a row is called."""
    if scorer.startswith("without_"):
        return f"mixture without the {words.name(scorer.removeprefix('without_'))}"
    return NAMES.get(scorer, words.name(scorer))


def rows(data: ReportData) -> list[Mapping[str, Any]]:
    """The rows in order: the experts, the ways to mix them, the dense control, the memories, the oracle."""
    found = (data.results.get("ablation") or {}).get("rows") or []
    place = {name: number for number, name in enumerate(LAST, start=1)}
    return sorted(found, key=lambda row: place.get(row["scorer"], 0))


def change(compared: Mapping[str, Any] | None) -> str:
    """−1.5% (−1.8 to −1.2): a difference and its interval."""
    if not compared or not all(words.known(compared.get(key)) for key in ("change", "low", "high")):
        return words.NOTHING
    middle, low, high = (_signed(compared[key] * 100) for key in ("change", "low", "high"))
    return f"{middle}% ({low} to {high})"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def ablation(data: ReportData) -> Table | None:
    """One row for each model and each way to mix; the best calibrated model without memory is marked."""
    found = rows(data)
    rivals = {row["scorer"]: row.get("calibrated") for row in found if row["scorer"] not in (*NOT_MODELS, *WITH_MEMORY)}
    best = scored.best({name: value for name, value in rivals.items() if words.known(value)})
    body = [[Cell(title(row["scorer"])), *_figures(row, row["scorer"] == best), *_costs(data, row)] for row in found]
    documents = words.count((data.results.get("ablation") or {}).get("documents"))
    caption = (
        f"Ablation: bits per byte, lower is better, the best model without memory is marked; differences of calibrated "
        f"bits with 95% intervals over {documents} documents{_unlike(data.config)}{_remembering(found)}"
    )
    return table(caption, HEAD, body)


def _remembering(found: Sequence[Mapping[str, Any]]) -> str:
    """What rows with a memory have that the others have not, and what their costs leave out."""
    if not any(row["scorer"] in WITH_MEMORY for row in found):
        return ""
    return (
        ". Rows with a memory look up what no other row has; the parameters and FLOPs of the small maps that are "
        "trained to read it are not in theirs"
    )


def _unlike(config: Mapping[str, Any]) -> str:
    """What keeps the experts from being compared with each other, where they have not read the same text."""
    training = config.get("pretrain") or {}
    if training.get("order", "same") == "same" and training.get("lean", 1.0) == 1.0:
        return ""
    return (
        ". The experts have not read the same windows, for the mixture's sake; to compare kinds of experts with each "
        "other, run with --pretrain.order same --pretrain.lean 1"
    )


def _figures(row: Mapping[str, Any], best: bool) -> list[Cell]:
    against = row.get("against") or {}
    bits = [number(words.fixed(row.get("calibrated")), best), number(words.fixed(row.get("bits_per_byte")))]
    return [*bits, *(number(change(against.get(other))) for other in ("best_expert", "dense"))]


def _costs(data: ReportData, row: Mapping[str, Any]) -> list[Cell]:
    cost = data.costs.get(row["scorer"]) or {}
    shown = [words.count(cost.get("parameters")), words.short(cost.get("flops"))]
    return [number(text) for text in (*shown, *(words.seconds(cost.get(key)) for key in ("seconds", "critical")))]


def control(data: ReportData) -> Table | None:
    """What the dense control is equal in, and how nearly."""
    body = [
        [
            Cell(what),
            number(words.short(wanted)),
            number(words.short(got)),
            number(f"{_signed((got / wanted - 1) * 100)}%"),
        ]
        for what, wanted, got in matched(data.dense)
        if wanted
    ]
    return table("What the dense control was made equal in", ("", "experts and router", "dense control", "apart"), body)


def shape(data: ReportData) -> str:
    """What the control is, in a sentence; empty without one."""
    form, tokens = data.dense.get("shape") or {}, data.dense.get("tokens")
    if not form:
        return ""
    return (
        f"The dense control is a transformer of {form['n_layers']} layers with {form['n_heads']} heads and an inner "
        f"width of {words.count(form['inner'])}, trained on {words.short(tokens)} tokens "
        f"({words.fixed(data.dense.get('epochs'), 2)} passes over the text of the experts and of the router), with the "
        "experts' optimiser, schedule and frozen embedding."
    )


def markdown(it: Table) -> str:
    """A table as Markdown, its caption below."""
    lines = [it.head, ["---", *["---:"] * (len(it.head) - 1)]]
    lines += [[f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in it.rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", it.caption + "."])


def differences(data: ReportData, width: float) -> Figure | None:
    """Each model without memory against the best expert: a point and its interval."""
    best = (data.results.get("ablation") or {}).get("best_expert")
    itself = {"change": 0.0, "low": 0.0, "high": 0.0}
    shown = {
        row["scorer"]: itself if row["scorer"] == best else row["against"]["best_expert"]
        for row in rows(data)
        if row["scorer"] not in (*NOT_MODELS, *WITH_MEMORY)
    }
    shown = {name: compared for name, compared in shown.items() if compared}
    if not best or not shown:
        return None
    wide = width > PHONE
    left, step = (150.0, 22.0) if wide else (96.0, 22.0)
    figure = canvas(width, step * len(shown) + 52)
    frame = axes(figure, left, 38, width - left - (96 if wide else 14), step * len(shown))
    frame.set_ylim(len(shown) - 0.5, -0.5)
    frame.set_yticks(range(len(shown)), [fit(title(name), 30 if wide else 18) for name in shown], color=INK)
    for place, (name, one) in enumerate(shown.items()):
        _whisker(frame, place, one, colour_of(name, scored.expert_names(data)), wide)
    frame.axvline(0, color=MUTED, lw=1, zorder=0)
    frame.xaxis.set_major_locator(MaxNLocator(6 if wide else 4))
    frame.xaxis.set_major_formatter(lambda value, _: f"{value:g}%".replace("-", "−"))
    frame.grid(axis="x", color=LINE)
    frame.spines["left"].set_visible(False)
    frame.set_xlabel(f"calibrated bits per byte against the {words.name(best)}", labelpad=6, loc="left", fontsize=FONT)
    return figure


def _whisker(frame: Axes, place: int, one: Mapping[str, float], colour: str, named: bool) -> None:
    middle, low, high = (one[key] * 100 for key in ("change", "low", "high"))
    frame.plot([low, high], [place, place], color=colour, lw=2.2, solid_capstyle="round")
    frame.plot([middle], [place], "o", ms=6, color=colour)
    if named:
        look: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": False, "color": INK}
        frame.annotate(f"{_signed(middle)}%", (1, place), (12, 0), textcoords="offset points", va="center", **look)
