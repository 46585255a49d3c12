"""One colour per expert in every picture, from Okabe and Ito's palette, which colour-blind readers can tell apart.

Pictures are drawn in the colours of the light page. In the page each becomes a CSS variable, so that dark mode can
choose its own; `report.css` gives the variables their values.
"""

EXPERTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")
DENSE = "#d55e00"
INK, MUTED, QUIET, LINE = "#1c2128", "#5c6570", "#a3abb5", "#e2e5e9"
# Text on a coloured area. Blue alone is dark enough to need white, and only in light mode.
ON_BLUE, ON_COLOUR = "#fefefe", "#14181d"

VARIABLES = {colour: f"e{number}" for number, colour in enumerate(EXPERTS)} | {
    DENSE: "dense", INK: "ink", MUTED: "muted", QUIET: "quiet", LINE: "line", ON_BLUE: "on-blue",
}  # fmt: skip


def slot(number: int) -> int:
    """The palette's entry for the expert at `number`; after six they come round again."""
    return number % len(EXPERTS)


def colour_of(name: str, experts: list[str]) -> str:
    """The colour of a scorer or a training: experts have their own, the mixture and its router are ink."""
    if name in experts:
        return EXPERTS[slot(experts.index(name))]
    return {"mixture": INK, "router": INK, "dense": DENSE}.get(name, QUIET)


def text_on(colour: str) -> str:
    """The colour of text on an area of `colour`."""
    return ON_BLUE if colour == EXPERTS[0] else ON_COLOUR


def css(colour: str) -> str:
    """The colour as a CSS variable, with itself for where the variables are not defined."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgb(var(--{VARIABLES[colour]}, {red} {green} {blue}))"
