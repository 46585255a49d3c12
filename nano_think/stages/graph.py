"""The pipeline as a picture: for the terminal, and as text for Mermaid and Graphviz.

Only the arrows that say something are drawn: not those that a longer way says too.
"""

from collections.abc import Mapping

from nano_think.stages.pipeline import Node
from nano_think.stages.selection import ancestors

Arrows = dict[str, tuple[str, ...]]


def arrows(nodes: Mapping[str, Node]) -> Arrows:
    """Node -> what it needs, without what another of its needs needs already (the transitive reduction)."""
    found = {}
    for name, node in nodes.items():
        further = {one for need in node.needs for one in ancestors(nodes, nodes[need].needs)}
        found[name] = tuple(need for need in node.needs if need not in further)
    return found


def mermaid(needs: Arrows) -> str:
    """The graph in Mermaid's words."""
    lines = [f"    {need} --> {name}" for name, before in needs.items() for need in before]
    alone = [f"    {name}" for name in needs if not needs[name] and not any(name in one for one in needs.values())]
    return "\n".join(["flowchart TD", *alone, *lines])


def dot(needs: Arrows) -> str:
    """The graph in Graphviz's words."""
    nodes = [f'    "{name}";' for name in needs]
    lines = [f'    "{need}" -> "{name}";' for name, before in needs.items() for need in before]
    return "\n".join(["digraph nano_think {", *nodes, *lines, "}"])


def draw(needs: Arrows) -> str:
    """A line for each node, from the first to the last, and what leads from one to another in lanes beside it."""
    lanes: list[str | None] = []
    rows: list[tuple[str, str]] = []
    for name in needs:
        mine = [lane for lane, target in enumerate(lanes) if target == name] or [_free(lanes)]
        place = mine[0]
        if len(mine) > 1:
            rows.append((_bend(lanes, mine, "┴╯"), ""))
        for lane in mine:
            lanes[lane] = None
        row = " ".join("●" if lane == place else "│" if target else " " for lane, target in enumerate(lanes))
        rows.append((row, name))
        taken: list[int] = []
        for after in (other for other, before in needs.items() if name in before):
            taken.append(_free(lanes) if taken else place)
            lanes[taken[-1]] = after
        if len(taken) > 1:
            rows.append((_bend(lanes, taken, "┬╮"), ""))
    return "\n".join(f"{row:<{2 * len(lanes)}} {name}".rstrip() for row, name in rows)


def _free(lanes: list[str | None]) -> int:
    """The first lane in which nothing runs; a new one if there is none."""
    if None not in lanes:
        lanes.append(None)
    return lanes.index(None)


def _bend(lanes: list[str | None], ends: list[int], corners: str) -> str:
    """The line on which lanes leave the first of `ends`, or come together there; the corners of those in between, and
    of the last.
    """
    first, *between, last = min(ends), *sorted(set(ends) - {min(ends), max(ends)}), max(ends)
    line = ""
    for lane, target in enumerate(lanes):
        through = first < lane < last
        plain = ("┼" if through else "│") if target else ("─" if through else " ")
        line += {first: "├", last: corners[1], **dict.fromkeys(between, corners[0])}.get(lane, plain)
        line += "─" if first <= lane < last else " "
    return line
