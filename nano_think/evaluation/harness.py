"""A mixture for EleutherAI's lm-eval: `lm_eval --model nano_think --model_args path=FOLDER`.

lm-eval knows the models of its own package and those of modules that have been imported. The tasks in tasks/*.yaml name
a function of this module, so that it is imported with them; for other tasks `nano-think lm-eval` imports it first.
"""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.engine import Engine
from nano_think.inference.request import Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.checkpoint import load_model

TASKS = Path(__file__).parent / "tasks"
LONGEST = 256


@register_model("nano_think")
class NanoThinkLM(TemplateLM):
    """path: folder of a trained model; batch_size: texts that are read at once. Memory is off."""

    def __init__(self, path: str, batch_size: int | str = 16, **_: Any):
        super().__init__()
        self.model, shape = load_model(Path(path))
        self.tokenizer, self.window = Tokenizer.load(Path(path)), shape.window
        self.rows = 16 if batch_size == "auto" else max(1, int(batch_size))

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.bos

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        return self.tokenizer.encode(string)

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: list, **_: Any) -> list[tuple[float, bool]]:
        """ln p of each continuation after its context, in nats, and whether it is the likeliest token by token."""
        order = sorted(range(len(requests)), key=lambda n: -len(requests[n][1]) - len(requests[n][2]))
        found: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(order), self.rows):
            part = order[first : first + self.rows]
            found |= dict(zip(part, self._read([requests[n][1:] for n in part]), strict=True))
        return [found[n] for n in range(len(requests))]

    def _read(self, pairs: list[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        rows = [self._row(context, continuation) for context, continuation in pairs]
        T = max(map(len, rows)) - 1
        # What is filled up stands behind the text, where nothing of it is seen.
        tokens_BT = torch.tensor([row[:-1] + [0] * (T + 1 - len(row)) for row in rows])
        logits_BTV = self.model.logits(self.model(tokens_BT))
        for row, (_, continuation), logits_TV in zip(rows, pairs, logits_BTV, strict=True):
            # Of a continuation longer than the window, its end.
            said = min(len(continuation), len(row) - 1)
            wanted = torch.tensor(row[len(row) - said :])
            said_TV = logits_TV[len(row) - 1 - said : len(row) - 1]
            log_p = said_TV.log_softmax(-1).gather(1, wanted[:, None]).sum().item()
            yield log_p, bool((said_TV.argmax(-1) == wanted).all())

    def _row(self, context: list[int], continuation: list[int]) -> list[int]:
        """The start token and both, cut on the left to what one window can predict."""
        begun = context if context[:1] == [self.tokenizer.bos] else [self.tokenizer.bos, *context]
        return (begun + continuation)[-self.window - 1 :]

    def loglikelihood_rolling(self, requests: list, **_: Any) -> list[float]:
        """ln p of whole texts, read in windows that follow each other."""
        return [sum(log_p for log_p, _ in self._rolling(request.args[0])) for request in requests]

    def _rolling(self, text: str) -> list[tuple[float, bool]]:
        windows = get_rolling_token_windows(
            token_list=self.tokenizer.encode(text), prefix_token=self.tokenizer.bos, max_seq_len=self.window - 1,
            context_len=1,
        )  # fmt: skip
        return self._loglikelihood_tokens([(("", ""), *make_disjoint_window(window)) for window in windows])

    def generate_until(self, requests: list, **_: Any) -> list[str]:
        """What each text goes on with, up to a stop string; temperature 0 unless the task says otherwise."""
        engine = Engine(self.model, self.tokenizer, self.window, rows=1)
        return ["".join(event.text for event in engine.stream(self._request(*one.args))) for one in requests]

    def _request(self, text: str, options: dict[str, Any]) -> Request:
        until = options.get("until") or []
        temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
        return Request(
            prompt=tuple(self.tokenizer.encode_document(text)),
            max_new_tokens=int(options.get("max_gen_toks") or LONGEST),
            stop=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
            sampling=SamplingConfig(temperature=temperature),
        )


def local_lambada(lambada: str, samples: int = 0, **_: Any) -> dict[str, Any]:
    """Rows {context, continuation} of a file of JSON lines, named by `--metadata '{"lambada": FILE}'`."""
    return _dataset(_rows(lambada, samples), ("context", "continuation"))


def local_blimp(blimp: str, samples: int = 0, **_: Any) -> dict[str, Any]:
    """Rows {sentence_good, sentence_bad} of a file of JSON lines, named by `--metadata '{"blimp": FILE}'`."""
    return _dataset(_rows(blimp, samples), ("sentence_good", "sentence_bad"))


def _rows(file: str, samples: int) -> Iterator[dict[str, str]]:
    """The rows, or about `samples` of them, evenly spread over the file."""
    opened = gzip.open if file.endswith(".gz") else open
    with opened(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    yield from rows[:: max(1, len(rows) // samples)] if samples else rows


def _dataset(rows: Iterable[dict[str, str]], columns: tuple[str, ...]) -> dict[str, Any]:
    from datasets import Dataset

    return {"test": Dataset.from_list([{name: row[name] for name in columns} for row in rows])}
