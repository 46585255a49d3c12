"""The server under 1, 2, 4, 8 and 16 clients: tokens a second, time of a request, and whether it still answers.

    python benchmarks/serve.py --json

A fresh `nano-think serve` with an untrained mixture of the seed's width (weights do not change the speed), memory off.
Each client asks for one completion after another; the numbers of clients take turns, round by round, so that whatever
else the machine does meets all of them. Another client looks at /health twenty times a second meanwhile.

- throughput_8: tokens a second with 8 clients over those with 1 (medians of the rounds).
- p95_8: the 95th percentile of a request's time with 8 clients over that with 1 (of all rounds' requests).
- health_p95_ms: the 95th percentile of /health with 16 clients, in milliseconds.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import torch

from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.experts import EXPERTS
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.checkpoint import ModelShape, build_mixture, save_mixture
from nano_think.stages.artifact import seal

CLIENTS = (1, 2, 4, 8, 16)
PROMPT = "The first of them said to the others that"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained router; left out: an untrained one is made")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--requests", type=int, default=2, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the server's engine")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser.parse_args()


def make_model(folder: Path, width: int, vocabulary: int) -> Path:
    """An untrained mixture with the registry's usual experts, as an artifact."""
    out = folder / "router" / "untrained"
    sources = (path.read_text(errors="replace") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    train_tokenizer(TokenizerConfig(vocab_size=vocabulary), sources, out)
    tokenizer = Tokenizer.load(out)
    torch.manual_seed(0)
    shape = ModelShape(
        width=width, vocabulary=vocabulary, window=512, start_token=tokenizer.bos,
        experts={name: kind.Config() for name, kind in EXPERTS.items()},
    )  # fmt: skip
    head = LanguageHead(normalise_table(torch.randn(vocabulary, width)), torch.zeros(vocabulary))
    save_mixture(out, build_mixture(shape, head), shape)
    seal(out, "router", "untrained", {"inputs": {}, "summary": {}})
    return out


@asynccontextmanager
async def served(model: Path, root: Path, threads: int) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a fresh server."""
    command = [sys.executable, "-m", "nano_think", "serve", "--model", str(model), "--root", str(root), "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen([*command, "--memory", "off"], stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout
            said = server.stdout.readline()
            if not said:
                sys.exit("benchmark: the server did not start")
            async with httpx.AsyncClient(base_url=said.split()[-1], timeout=600, trust_env=False) as client:
                yield client
        finally:
            server.terminate()


async def ask(client: httpx.AsyncClient, tokens: int, seed: int) -> tuple[float, int]:
    """Seconds of a request, and the tokens of its answer."""
    body = {"model": "nano_think", "prompt": PROMPT, "max_tokens": tokens, "seed": seed}
    started = time.perf_counter()
    told = await client.post("/v1/completions", json=body)
    told.raise_for_status()
    return time.perf_counter() - started, told.json()["usage"]["completion_tokens"]


async def load(client: httpx.AsyncClient, clients: int, wanted: argparse.Namespace) -> dict[str, list[float]]:
    """One round of so many clients: tokens a second, the requests' times, and those of /health meanwhile (seconds)."""

    async def one(number: int) -> list[tuple[float, int]]:
        return [await ask(client, wanted.tokens, 1000 * number + turn) for turn in range(wanted.requests)]

    health: list[float] = []
    probing = asyncio.create_task(probe(client, health))
    started = time.perf_counter()
    answers = [answer for part in await asyncio.gather(*map(one, range(clients))) for answer in part]
    seconds = time.perf_counter() - started
    probing.cancel()
    times = [took for took, _ in answers]
    return {"rate": [sum(count for _, count in answers) / seconds], "times": times, "health": health}


async def probe(client: httpx.AsyncClient, health: list[float]) -> None:
    while True:
        started = time.perf_counter()
        (await client.get("/health")).raise_for_status()
        health.append(time.perf_counter() - started)
        await asyncio.sleep(0.05)


async def measure(wanted: argparse.Namespace) -> dict[int, dict[str, list[float]]]:
    """All rounds of each number of clients together; the first round warms up and is not counted."""
    found: dict[int, dict[str, list[float]]] = {n: {"rate": [], "times": [], "health": []} for n in CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(wanted.model) if wanted.model else make_model(Path(folder), wanted.width, wanted.vocab_size)
        async with served(model, Path(folder), wanted.threads) as client:
            await load(client, CLIENTS[-1], wanted)
            for _ in range(wanted.rounds):
                for clients in CLIENTS:
                    for name, values in (await load(client, clients, wanted)).items():
                        found[clients][name] += values
    return found


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def main() -> None:
    wanted = arguments()
    found = asyncio.run(measure(wanted))
    rows = {
        n: {
            "tokens_per_s": statistics.median(one["rate"]),
            "p95_s": p95(one["times"]),
            "health_p95_ms": 1000 * p95(one["health"]),
        }
        for n, one in found.items()
    }
    print(f"{'clients':>8}{'tokens/s':>10}{'p95 s':>8}{'/health p95 ms':>16}")
    for n, row in rows.items():
        print(f"{n:>8}{row['tokens_per_s']:>10.1f}{row['p95_s']:>8.2f}{row['health_p95_ms']:>16.1f}")
    ratios = {
        "throughput_8": rows[8]["tokens_per_s"] / rows[1]["tokens_per_s"],
        "p95_8": rows[8]["p95_s"] / rows[1]["p95_s"],
        "health_p95_ms": rows[16]["health_p95_ms"],
    }
    print(", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    if wanted.json:
        print(json.dumps({"clients": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
