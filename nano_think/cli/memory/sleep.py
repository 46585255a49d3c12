"""`nano-think memory sleep`: merge near-duplicates within each conversation."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from nano_think.cli.arguments import parse_arguments
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import read_owner
from nano_think.memory.places import places


@dataclass(frozen=True, kw_only=True)
class SleepArguments:
    """Merge entries of one document (conversation) with the same next token and almost the same key.

    The newest stands for all of them. No text goes, and nothing is merged into another document, so `forget`
    still erases exactly one.
    """

    namespace: str
    """Whose."""
    threshold: float = 0.99
    """Least cosine of two keys that count as the same (more than 0, at most 1)."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"--threshold: wanted more than 0 and at most 1, got {self.threshold}")


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(SleepArguments, "memory sleep", arguments)
    merged = left = 0
    for one in places(wanted.root, wanted.namespace):
        with Conversations(one.folder, read_owner(one.folder), write=True) as memory:
            for told in memory.told:
                print(f"note: {told}", file=sys.stderr)
            merged += memory.sleep(wanted.threshold)
            left += len(memory)
    if wanted.json:
        print(json.dumps({"namespace": wanted.namespace, "merged": merged, "left": left}))
    else:
        print(f"merged {merged:,} entries of '{wanted.namespace}' into others; {left:,} are left")
    return 0
