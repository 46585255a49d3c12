"""`nano-think gc` and `compare`, as users call them."""

import pytest

from nano_think.core.files import lock
from nano_think.stages.contest import contend
from tests.stages.finished_runs import make_run


@pytest.fixture
def root(tmp_path):
    """Two runs of which the first is the champion."""
    for name, bits in {"best": 0.8, "newest run": 0.9}.items():
        contend(make_run(tmp_path / "root", name, bits), tmp_path / "root")
    return tmp_path / "root"


def test_gc_says_what_it_does_and_dry_run_does_nothing(say, root):
    """Both runs stay: one is the newest, one the champion. Half-made leavings go."""
    (root / "router" / "0123456789abcdef").mkdir()
    (root / "router" / "0123456789abcdef" / "weights").write_bytes(bytes(5000))
    before = sorted(root.rglob("*"))
    dry = say("gc", "--root", root, "--half-made", "--dry-run")
    assert dry.code == 0 and "5.00 kB in 1 artifacts would be removed" in dry.out
    assert [path for path in sorted(root.rglob("*")) if not path.name.startswith(".lock")] == before
    told = say("gc", "--root", root, "--half-made", "--json").json
    assert told["removed"] == [str(root / "router" / "0123456789abcdef")] and told["bytes"] == 5000
    assert not (root / "router" / "0123456789abcdef").exists()


def test_gc_leaves_a_root_in_use_alone(say, root):
    """Exit code 6, as for a second run."""
    with lock(root / ".lock", "the root"):
        assert say("gc", "--root", root).code == 6


def test_compare_tells_settings_figures_and_the_interval(say, root):
    """And draws the losses on one axis."""
    told = say("compare", "champion", "newest", "--root", root)
    assert told.code == 2 and "no run 'newest'" in told.err
    newest = max((root / "report").iterdir(), key=lambda path: (path / "manifest.json").stat().st_mtime)
    told = say("compare", "champion", newest, "--root", root)
    assert told.code == 0, told.err
    assert "seed" in told.out and "mixture on d" in told.out and "+12.50%" in told.out
    assert "95% interval over documents -1" in told.out and "█" in told.out
    figures = say("compare", "champion", newest, "--root", root, "--json").json
    assert figures["settings"] == {"seed": [4, 10]} and figures["mixture"]["high"] < 0
