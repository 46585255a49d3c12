"""Kernels are built where they can be, once, and nothing depends on them."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nano_think.nn import native
from nano_think.nn.native import SWITCH, build, kernels

OTHERS = """
import sys, pytest
from nano_think.nn.native import build, kernels
build.NATIVE = {flags!r}
assert kernels().there, kernels().reason
names = ["nn/test_" + name for name in ("selective_scan", "mlp", "norm", "split_heads", "rows")]
tests = ["{root}/tests/" + name + ".py" for name in [*names, "heads/test_cross_entropy"]]
wanted = "(chosen or exact) or not test_selective_scan"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *tests, "-k", wanted]))
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has not looked for kernels yet, and an empty cache."""
    monkeypatch.setattr(native, "_found", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def run(code: str, cache: Path, **environment: str) -> subprocess.Popen:
    more = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | more, **pipes)


def test_no_compiler_is_said_in_one_line(unloaded, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not kernels().there and not kernels().there
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no C++ compiler (no-such-compiler)" in said
    assert "no C++ compiler" in kernels().reason


def test_a_compiler_that_fails_is_said_in_one_line(unloaded, monkeypatch, capsys):
    compiler = unloaded / "c++"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-dM*) exit 0;; esac\necho "x.cpp:1: error: no such thing" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert not kernels().there
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and "compiling" in said and "error: no such thing" in said
    assert not list(unloaded.rglob("*.so")) and not list(unloaded.rglob("*.tmp"))


def test_a_library_that_cannot_be_loaded_is_said_in_one_line(unloaded, monkeypatch, capsys):
    compiler = unloaded / "c++"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\ncase "$*" in *-dM*) exit 0;; esac\necho torn > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert not kernels().there
    assert capsys.readouterr().err.count("\n") == 2


def test_a_cache_that_cannot_be_written_is_said_in_one_line(unloaded, monkeypatch, capsys):
    (unloaded / "nano_think").write_text("a file where a folder should be")
    assert not kernels().there
    assert capsys.readouterr().err.count("\n") == 1


def test_kernels_can_be_forbidden(unloaded, monkeypatch, capsys):
    monkeypatch.setenv(SWITCH, "1")
    assert not kernels().there and SWITCH in kernels().reason
    assert not capsys.readouterr().err and not list(unloaded.iterdir())


def test_the_key_depends_on_sources_flags_and_compiler(unloaded, monkeypatch):
    compilers = []
    for name in ("one", "two"):
        compiler = unloaded / name
        compiler.write_text(f"#!/bin/sh\necho '#define {name}'\n")
        compiler.chmod(0o755)
        compilers.append(str(compiler))
    sources = unloaded / "sources"
    shutil.copytree(build.HERE, sources)
    keys = {build._key(compilers[0], ("-O3",)), build._key(compilers[1], ("-O3",)), build._key(compilers[0], ("-O2",))}
    monkeypatch.setattr(build, "HERE", sources)
    assert build._key(compilers[0], ("-O3",)) in keys
    for name in (*build.SOURCES, *build.HEADERS):
        (sources / name).write_text((sources / name).read_text() + "\n")
        keys.add(build._key(compilers[0], ("-O3",)))
    assert len(keys) == 3 + len(build.SOURCES) + len(build.HEADERS)


def test_all_sources_are_built_and_none_with_unsafe_arithmetic():
    assert {path.name for path in build.HERE.glob("*.cpp")} == set(build.SOURCES)
    assert {path.name for path in build.HERE.glob("*.h")} == set(build.HEADERS)
    assert not {flag for flag in build.FLAGS if "fast" in flag}


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["x86-64-v4", "x86-64-v3", "x86-64-v2"])
def test_kernels_for_other_processors_agree(cpu: str, tmp_path: Path):
    """Vectors of 8 and of 4 have an exponential of their own; 16 need a processor that has them."""
    features = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    known = platform.machine() == "x86_64" and ("avx512dq" in features or cpu != "x86-64-v4") and "fma" in features
    flags = (f"-march={cpu}",) if known else build.NATIVE
    process = run(OTHERS.format(flags=flags, root=ROOT), tmp_path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and " passed" in out, out + err


@pytest.mark.slow
def test_processes_that_start_together_build_once(tmp_path: Path):
    code = "from nano_think.nn.native import kernels; print(kernels().there)"
    started = [run(code, tmp_path) for _ in range(3)]
    told = [process.communicate(timeout=600) for process in started]
    assert [out.strip() for out, _ in told] == ["True"] * 3, told
    (library,) = tmp_path.rglob("*.so")
    assert {path.name for path in library.parent.iterdir()} <= {"kernels.so", "lock", "lock.holder"}
    before = library.stat().st_mtime_ns
    assert run(code, tmp_path).communicate(timeout=600)[0].strip() == "True"
    assert library.stat().st_mtime_ns == before
