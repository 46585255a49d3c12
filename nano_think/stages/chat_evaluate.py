"""The base, the chat model and held-out chats -> figures, each with what it is worth, and sample conversations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nano_think.core.config import Config
from nano_think.core.device import pick_device, set_up
from nano_think.core.errors import InputError
from nano_think.core.files import sha256, write_json
from nano_think.data.sources.files import matches
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.chat.answers import answers
from nano_think.evaluation.chat.language import cost, figures, talks
from nano_think.evaluation.chat.scores import score
from nano_think.evaluation.chat.tasks import labels, parse_spec
from nano_think.evaluation.concepts import concept_map
from nano_think.models.chat import Model
from nano_think.stages.artifact import Artifact
from nano_think.stages.sft import marks_of, open_base
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Context, Inputs, Stage
from nano_think.training.objectives.chat import Marks, said_by_assistant

RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatEvaluateConfig(Config):
    """How well the chat model talks, beside its base."""

    tasks: tuple[str, ...] = ("spelling", "sums")
    """Tasks: names ("spelling" and "sums" are made here, others are read from the Hugging Face hub: arc_easy,
    arc_challenge, piqa, winogrande, copa, blimp, gsm8k, humaneval), or 'name:GLOB' for JSON lines files."""
    items: int = 500
    """Most items of each task whose answers are written (items)."""
    choices: int = 5000
    """Most items of each task whose answers are told by likelihood, which takes far less (items)."""
    chats: int = 500
    """Most held-out chats whose bits per byte are measured, and whose concepts are shown (chats)."""
    turns: tuple[str, ...] = (
        "Hello!",
        "Tell me a joke",
        "What is 7 + 5?",
        "Correct the spelling of this word: recieve",
    )
    """What the user says in the sample conversation of the report, one after the other."""
    answer_tokens: int = 48
    """Longest answer in it (tokens)."""

    def __post_init__(self) -> None:
        for name in ("items", "choices", "chats", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatEvaluateJob(Job):
    """The chat evaluation's configuration."""

    evaluate: ChatEvaluateConfig


class ChatEvaluate(Stage):
    """Score the base and the chat model by the same questions."""

    name = "chat_evaluate"
    config: ChatEvaluateJob

    def modules(self) -> list[str]:
        return [__name__, *expert_modules()]

    def fingerprint(self) -> Any:
        """The files of the tasks; what the hub gives is not asked again."""
        parts = [(name, pattern) for name, _, pattern in map(parse_spec, self.config.evaluate.tasks)]
        return {name: [sha256(path) for path in matches(name, pattern)] for name, pattern in parts if pattern}

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        job, note = self.config, context.progress.note
        device = pick_device(job.compute.device)
        set_up(job.compute, device)
        tokenizer = Tokenizer.load(inputs["sft"].path)
        base = open_base(inputs, job.space)[0].to(device)
        chat = open_base({"base": inputs["sft"]}, job.space)[0].to(device)
        results: dict[str, Any] = {"language": language(base, chat, tokenizer, inputs["chat_tokens"], job)}
        results["tasks"] = {}
        for label, spec in labels(job.evaluate.tasks).items():
            found = task_scores({"base": base, "chat": chat}, tokenizer, job.space.window, spec, job.evaluate)
            results["tasks"][label] = found
            note(f"{label}: {found['chat']['score']:.3f} (base {found['base']['score']:.3f})")
        results["concepts"] = concept_map(chat, held_out_chats(inputs["chat_tokens"], job), tokenizer)
        results["conversation"] = converse(chat, tokenizer, job)
        write_json(out / RESULTS, results)
        return results


def task_scores(
    models: Mapping[str, Model], tokenizer: Tokenizer, window: int, spec: str, most: ChatEvaluateConfig
) -> dict[str, Any]:
    """Each model's score of one task."""
    found = {name: score(model, tokenizer, window, spec, most.items, most.choices) for name, model in models.items()}
    return {name: one.to_dict() for name, one in found.items()}


def language(base: Model, chat: Model, tokenizer: Tokenizer, chats: Artifact, job: ChatEvaluateJob) -> dict[str, Any]:
    """Bits per byte of what the assistant says in held-out chats: of the chat model, of the base given the same, and of
    the base given the same words without the template's marks.
    """
    text, window = held_out_chats(chats, job), job.space.window
    said = said_in(text, marks_of(tokenizer), window)
    marked, plain = (talks(text, tokenizer, said, window, plain) for plain in (False, True))
    if not marked:
        raise InputError("no held-out chat to measure; give more chats, or raise chats.test_fraction")
    nats = {"base": cost(base, marked), "base_plain": cost(base, plain), "chat": cost(chat, marked)}
    return figures(nats, marked)


def held_out_chats(chats: Artifact, job: ChatEvaluateJob) -> TokenSet:
    """The chats that are looked at: none of them was learned."""
    return first_chats(TokenSet.open(chats.path, "test"), job.evaluate.chats)


def first_chats(chats: TokenSet, most: int) -> TokenSet:
    """The chats of a split, or so many of them, drawn by a fixed seed."""
    if len(chats.documents) <= most:
        return chats
    chosen = np.sort(np.random.default_rng(0).permutation(len(chats.documents))[:most])
    return TokenSet(chats.tokens, chats.documents.take(chosen))


def said_in(chats: TokenSet, marks: Marks, window: int) -> list[np.ndarray]:
    """Of each chat's first T + 1 tokens, which the assistant says."""
    offsets, lengths = (chats.documents.column(name).to_pylist() for name in ("offset", "tokens"))
    rows = [chats.tokens[o : o + min(n, window + 1)].astype(np.int64) for o, n in zip(offsets, lengths, strict=True)]
    return [said_by_assistant(torch.from_numpy(row)[None], marks)[0].numpy() for row in rows]


def converse(chat: Model, tokenizer: Tokenizer, job: ChatEvaluateJob) -> list[dict[str, str]]:
    """One conversation: the user's turns are given, and each answer is read with all that was said before."""
    messages: list[dict[str, str]] = []
    for turn in job.evaluate.turns:
        messages.append({"role": "user", "content": turn})
        (answer,) = answers(chat, tokenizer, [messages], job.space.window, job.evaluate.answer_tokens)
        messages.append({"role": "assistant", "content": answer})
    return messages
