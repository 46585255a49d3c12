"""The report's pictures by name, as SVG for the page and as PNG for everybody else."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from nano_think.report.ablation import differences
from nano_think.report.data import ReportData
from nano_think.report.lengths import lengths
from nano_think.report.plots import bars, curves, weights
from nano_think.report.routing import classes, depths, positions
from nano_think.report.svg import drawing, save_png, to_svg

# The page shows the wide one or, on a phone, the narrow one (points); both are read at the same size of type.
WIDE, NARROW = 792.0, 272.0

PICTURES: dict[str, tuple[Callable[[ReportData, float], Figure | None], str]] = {
    "loss_curves": (curves, "Loss over tokens for every training"),
    "bits_per_byte": (bars, "Bits per byte by scorer and domain"),
    "ablation": (differences, "Calibrated bits per byte of each model against the best expert, with intervals"),
    "routing": (weights, "Mean routing weight of each expert by domain"),
    "routing_classes": (classes, "Mean routing weight of each expert by class of token"),
    "routing_positions": (positions, "Mean routing weight of each expert by position in the document"),
    "routing_depth": (depths, "Mean routing weight of each expert over the depth of a document"),
    "lengths": (lengths, "Documents by length in bytes and domain"),
}


def picture(data: ReportData, name: str, width: float = WIDE) -> str | None:
    """One picture as an SVG element, or None where there is nothing to draw."""
    draw, label = PICTURES[name]
    with drawing():
        figure = draw(data, width)
        return to_svg(figure, f"{name}-{width:.0f}", label) if figure else None


def write_pictures(data: ReportData, folder: Path) -> list[Path]:
    """Write the pictures that there is something to draw for as `folder/NAME.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    with drawing():
        drawn = {name: draw(data, WIDE) for name, (draw, _) in PICTURES.items()}
        return [save_png(figure, folder / f"{name}.png") for name, figure in drawn.items() if figure]
