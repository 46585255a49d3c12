"""A line of 128 MB goes through ingestion and encoding in little memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from nano_think.core.process import child_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


LONG = """
import sys
from pathlib import Path
import numpy, pyarrow
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import write_tokens

def most():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

idle = most()
source, words, out = sys.argv[1:]
tokenizer = Tokenizer.load(Path(words))
summary = ingest(IngestConfig(sources=(source,)), Path(out) / "documents")
assert summary["cleaning"]["split"] == 1 and summary["cleaning"]["kept"] > 30
read = most() - idle
write_tokens(Path(out) / "documents", tokenizer, Path(out) / "tokens", threads=2)
print(read, most() - idle)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_one_line_of_128_mb_takes_little_memory(kind: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    block = "".join(f"word {number} and \u00e9 " for number in range(50_000)).encode()
    path = tmp_path / f"long.{kind}"
    with path.open("wb") as file:
        file.write(b'{"text": "' if kind == "jsonl" else b"")
        for number in range(128 * 2**20 // len(block) + 1):
            file.write(b"part %d " % number + block)
        file.write(b'"}\n' if kind == "jsonl" else b"")
    command = [sys.executable, "-c", LONG, f"{kind}:{path}", str(tokenizer_folder), str(tmp_path)]
    run = subprocess.run(command, env=child_environment(1, {}), capture_output=True, text=True, check=True)
    read, encoded = map(int, run.stdout.split())
    assert read < 300e6
    assert encoded < 300e6
