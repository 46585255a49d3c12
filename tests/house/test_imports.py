"""`nano-think --help` answers at once: nothing heavy is imported for it."""

import subprocess
import sys
import time

import pytest

HEAVY = {
    "accelerate",
    "datasets",
    "faiss",
    "fastapi",
    "matplotlib",
    "mlflow",
    "pandas",
    "prefect",
    "torch",
    "transformers",
}
HELP = """
import sys
from nano_think.cli.main import main
sys.argv = ["nano-think", *ARGUMENTS]
try:
    main()
except SystemExit:
    pass
print("\\n".join(sys.modules), file=sys.stderr)
"""


def run(code: str) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    return done, time.perf_counter() - start


@pytest.mark.parametrize(
    "arguments", [["--help"], ["data", "stats", "--help"], ["data", "preview", "--help"], ["data", "check", "--help"]]
)
def test_help_imports_nothing_heavy(arguments):
    _, bare = run("pass")
    helped, took = run(HELP.replace("ARGUMENTS", repr(arguments)))
    assert helped.returncode == 0, helped.stderr
    assert "nano-think" in helped.stdout
    assert not HEAVY & set(helped.stderr.split())
    # Printed, not asserted: a shared machine's clock proves nothing.
    print(f"nano-think {' '.join(arguments)}: {took / bare:.1f} times as long as bare Python ({took:.2f} s)")
