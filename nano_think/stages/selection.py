"""Which stages a run makes: all of them, or a part of the graph, told by names of stages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from nano_think.core.config import Config
from nano_think.core.errors import UsageError, nearest
from nano_think.stages.pipeline import Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection(Config):
    """Stages by name. What a chosen stage needs and is not chosen itself must be up to date."""

    first: tuple[str, ...] = ()
    """These stages and all that follow from them."""
    until: tuple[str, ...] = ()
    """These stages and all that they need."""
    only: tuple[str, ...] = ()
    """These stages and no other."""
    force: tuple[str, ...] = ()
    """Make these again though they are up to date."""

    def choose(self, nodes: Mapping[str, Node]) -> tuple[str, ...]:
        """The names of the chosen nodes, in the nodes' order; `UsageError` where they make no sense."""
        for name in (name for field in fields(self) for name in getattr(self, field.name)):
            if name not in nodes:
                raise UsageError(f"unknown stage '{name}'.{nearest(name, nodes)}")
        if self.only and (self.first or self.until):
            raise UsageError("--only cannot be combined with --from and --until: it is those stages and no other")
        after = descendants(nodes, self.first) if self.first else set(nodes)
        before = ancestors(nodes, self.until) if self.until else set(nodes)
        chosen = set(self.only) or after & before
        if not chosen:
            raise UsageError(f"no stage is both after {_told(self.first)} and before {_told(self.until)}")
        if outside := [name for name in self.force if name not in chosen]:
            raise UsageError(f"--force {outside[0]}: not among the stages of this run ({_told(chosen)})")
        return tuple(name for name in nodes if name in chosen)


def _told(names: Iterable[str]) -> str:
    return ", ".join(names)


def descendants(nodes: Mapping[str, Node], names: Iterable[str]) -> set[str]:
    """The named nodes and every node that needs one of them, directly or not."""
    found = set(names)
    for name, node in nodes.items():
        if found & set(node.needs):
            found.add(name)
    return found


def ancestors(nodes: Mapping[str, Node], names: Iterable[str]) -> set[str]:
    """The named nodes and every node that one of them needs, directly or not."""
    found = set(names)
    for name in reversed(list(nodes)):
        if name in found:
            found |= set(nodes[name].needs)
    return found
