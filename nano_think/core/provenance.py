"""Which code and which packages a run used, as far as this machine can tell."""

import hashlib
import subprocess
from importlib import metadata
from pathlib import Path

HOME = Path(__file__).parents[2]


def provenance() -> dict[str, str]:
    """The commit of the checkout, a digest of what differs from it ("clean" if nothing does), and one of the names and
    versions of all packages; of an installed package only the last.
    """
    # Where the package is installed inside of somebody else's checkout, that one's commit says nothing of it.
    ours = _git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    commit = _git("rev-parse", "HEAD") if ours else ""
    if not commit:
        return {"packages": packages()}
    changed = _git("status", "--porcelain") + _git("diff", "HEAD")
    return {"git.commit": commit.strip(), "git.diff": _digest(changed) if changed else "clean", "packages": packages()}


def packages() -> str:
    """A digest of the environment: what a lock file of it would say."""
    there = {f"{one.metadata['Name']}=={one.version}".lower() for one in metadata.distributions()}
    return _digest("\n".join(sorted(there)))


def _git(*words: str) -> str:
    """What git says of the folder that this package lies in; nothing where that is no checkout."""
    try:
        done = subprocess.run(["git", *words], cwd=HOME, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
