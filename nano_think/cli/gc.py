"""`nano-think gc`: free space."""

import json
from dataclasses import dataclass
from pathlib import Path

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import size
from nano_think.core.errors import UsageError
from nano_think.core.files import lock
from nano_think.stages import leavings
from nano_think.stages.artifact import discard


@dataclass(frozen=True, kw_only=True)
class GcArguments:
    """Remove artifacts of older finished runs that none of the newest was made of. The champion and the newest finished
    run stay, with all that they were made of, and so does what no finished run has reported on yet; a root in use is
    left alone; memories of conversations are not touched.
    """

    keep: int = 1
    """Newest finished runs that are kept whole (runs)."""
    half_made: bool = False
    """Remove half-made artifacts too, and with them the checkpoints that a run would go on from."""
    unreported: bool = False
    """Remove finished artifacts too that no finished run was made of, such as the experts of a run that has failed."""
    dry_run: bool = False
    """Tell what would be removed, and remove nothing."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(GcArguments, "gc", arguments)
    if wanted.keep < 0:
        raise UsageError(f"--keep: wanted 0 or more, got {wanted.keep}")
    if not wanted.root.is_dir():
        raise UsageError(f"no artifacts under '{wanted.root}'; name their folder with --root")
    with lock(wanted.root / ".lock", f"artifact root '{wanted.root}'"):
        found = leavings.removable(wanted.root, wanted.keep, wanted.half_made, wanted.unreported)
        going = {path: leavings.size(path) for path in found}
        if not wanted.json:
            for path, count in going.items():
                print(f"{size(count):>10}  {path}")
        if not wanted.dry_run:
            for path in going:
                discard(path)
    total = sum(going.values())
    if wanted.json:
        print(json.dumps({"removed": [str(path) for path in going], "bytes": total, "dry_run": wanted.dry_run}))
    else:
        print(f"{size(total)} in {len(going)} artifacts {'would be' if wanted.dry_run else 'were'} removed")
    return 0
