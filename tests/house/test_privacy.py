"""Nothing in the project tells where it was made: no home folder, no path of a machine, no package index."""

import re
from pathlib import Path

# Written in pieces, so that this file does not find itself.
HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "deb." + "debian.org",
    "index" + "-url",
    "find" + "-links",
]
HOMES = [r"/ho" + r"me/\w+", r"/Us" + r"ers/\w+", r"/ro" + r"ot/", r"[A-Z]:\\\\?Users"]


def test_no_trace_of_a_machine(root: Path, files: list[Path]):
    traces = [*map(re.escape, HOSTS), *HOMES, re.escape(str(root)) + r"\b"]
    if len(Path.home().parts) > 2:
        traces.append(re.escape(str(Path.home())))
    pattern = re.compile("|".join(traces))
    found = []
    for path in files:
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(root)}: {match.group()}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found)
