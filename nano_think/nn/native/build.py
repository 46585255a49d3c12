"""The kernels of this folder as a shared library: compiled once per source, compiler and CPU, kept in the user's cache.

There is no ninja and no setuptools in it: one call of the compiler on files that use torch's stable interface alone,
some twenty seconds. Threads are torch's own, so there is no second OpenMP in the process.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from nano_think.core.files import lock, replacing

HERE = Path(__file__).parent
SOURCES = (
    "selective_scan.cpp",
    "causal_conv.cpp",
    "cross_entropy.cpp",
    "blend_cross_entropy.cpp",
    "swiglu.cpp",
    "rms_norm.cpp",
    "split_heads.cpp",
    "linear_rows.cpp",
    "attend_rows.cpp",
    "scan_rows.cpp",
    "mix_remembered.cpp",
)
HEADERS = ("vectors.h", "norm.h", "heads.h", "slots.h")
# Never -ffast-math or -Ofast: they blind the NaN guard and can switch denormals off for the whole process.
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-w")
NATIVE = ("-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",)
SECONDS = 300


class CannotBuildError(Exception):
    """Why there is no kernel here, in one line."""


def build_kernels() -> Path:
    """The library for this machine, compiled now if the cache has none; `CannotBuildError` says why there is none."""
    compiler = find_compiler()
    flags = (*FLAGS, *NATIVE)
    path = cache_folder() / _key(compiler, flags) / "kernels.so"
    if not path.exists():
        # Several experts may start at once, in processes of their own: one compiles, the others wait.
        with lock(path.with_name("lock"), "the folder of compiled kernels", wait=SECONDS):
            if not path.exists():
                print("nano_think: compiling kernels for this CPU, once (up to a minute)", file=sys.stderr, flush=True)
                with replacing(path) as temporary:
                    compile_to(temporary, compiler, flags)
    return path


def find_compiler() -> str:
    """The C++ compiler: $CXX, or the first of c++, g++ and clang++ that is there."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise CannotBuildError(f"no C++ compiler ({', '.join(names)}); install g++ or set CXX")
    return found


def cache_folder() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/nano_think/kernels, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nano_think" / "kernels"


def compile_to(path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """Compile the kernels to `path`."""
    home = Path(torch.__file__).parent
    link = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else [f"-L{home / 'lib'}", "-ltorch_cpu"]
    sources = [str(HERE / name) for name in SOURCES]
    _run([compiler, *flags, f"-I{home / 'include'}", *sources, *link, "-o", str(path)])


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """A digest of sources, flags, torch, and the macros that tell the compiler's version and the CPU's features."""
    macros = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    texts = [(HERE / name).read_text(encoding="utf-8") for name in (*SOURCES, *HEADERS)]
    return hashlib.sha256("\0".join([torch.__version__, *flags, macros, *texts]).encode()).hexdigest()[:24]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuildError(f"{command[0]} does not run ({error})") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise CannotBuildError(f"{command[0]} failed: {lines[0].strip()}")
    return done.stdout
