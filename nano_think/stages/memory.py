"""The mixture and the routing split -> its persistent memory, and how much a memory should count."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nano_think.core.config import Config
from nano_think.core.device import pick_device, set_up
from nano_think.core.errors import ArtifactError
from nano_think.core.files import read_json, write_json
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.memories import Memories, fit_memories
from nano_think.evaluation.reading import Reading, read
from nano_think.evaluation.scratch import fit_reader
from nano_think.evaluation.slots import fit_slots
from nano_think.memory.entries import Entries
from nano_think.memory.read import Gate, to_key
from nano_think.memory.scratch import ScratchReader
from nano_think.memory.slots import SOURCES, SlotReader
from nano_think.memory.store import VectorStore
from nano_think.models.checkpoint import load_mixture
from nano_think.models.think import NanoThink
from nano_think.nn.weights import fill, load_weights, save_weights
from nano_think.stages.artifact import Artifact
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Context, Inputs, Stage

STORE, GATES, READER, SLOTS = "store.safetensors", "gates.json", "scratch.safetensors", "slots.safetensors"

Reader = TypeVar("Reader", ScratchReader, SlotReader)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig(Config):
    """The persistent memory: an entry is what the mixture thought at a token and the token that came next."""

    max_entries: int = 32_768
    """Entries that are kept, of whole documents of the routing split (tokens)."""
    fit_tokens: int = 20_000
    """Tokens of the validation split that the memories' weight is fitted on (tokens)."""

    def __post_init__(self) -> None:
        self.at_least(1, "max_entries", "fit_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryJob(Job):
    """The memory stage's configuration."""

    memory: MemoryConfig


class Memory(Stage):
    """Build the store, fit the gates, train what reads it."""

    name = "memory"
    config: MemoryJob

    def modules(self) -> list[str]:
        return [__name__, *expert_modules()]

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        job, tokens = self.config, inputs["tokens"].path
        model = load_on_device(inputs["router"], job)
        written = self._read(model, TokenSet.open(tokens, "router"), "max_entries")
        store = VectorStore(to_entries(written), inputs["router"].digest)
        store.save(out / STORE)
        fitted = self._read(model, TokenSet.open(tokens, "validation"), "fit_tokens")
        memories = fit_memories(store, fitted)
        gates = {name: dataclasses.asdict(getattr(memories, name)) for name in ("persistent", "scratch")}
        write_json(out / GATES, gates)
        reader = fit_reader(written, job.space.window)
        save_weights(out / READER, reader.state_dict())
        told = {"entries": len(store), "fitted_on": sum(len(reading.target) for reading in fitted), "gates": gates}
        if model.fusion == "hidden":
            slots = fit_slots(model.head, store, written, fitted)
            save_weights(out / SLOTS, slots.state_dict())
            told |= {"slots": {name: slots.gate[at].tanh().tolist() for at, name in enumerate(SOURCES)}}
        return told

    def _read(self, model: NanoThink, tokens: TokenSet, setting: str) -> list[Reading]:
        """Documents of at most so many tokens together as a setting says."""
        most = getattr(self.config.memory, setting)
        readings = list(read(model, split_documents(tokens, most, seed=0), self.config.space.window))
        if not readings:
            raise ArtifactError(f"no document of a split has at most {most} tokens; raise memory.{setting}")
        return readings


def to_entries(readings: Sequence[Reading]) -> Entries:
    """An entry for every token of the readings that another follows, in the order of reading."""
    documents = [document for reading in readings for document in reading.documents]
    lengths = [len(document.tokens) - 1 for document in documents]
    return Entries.of(
        np.concatenate([to_key(reading.hidden).numpy() for reading in readings]),
        np.concatenate([reading.target.numpy() for reading in readings]),
        token=np.concatenate([document.tokens[:-1] for document in documents]),
        document=np.repeat(np.arange(len(documents)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
    )


def load_on_device(artifact: Artifact, job: Job) -> NanoThink:
    """The mixture of a router artifact, in evaluation mode on the device that the job asks for."""
    device = pick_device(job.compute.device)
    set_up(job.compute, device)
    return load_mixture(artifact.path)[0].to(device)


def load_memories(artifact: Artifact) -> Memories:
    """The store and the gates of a memory artifact; `ArtifactError` if it was not built by the model that it names."""
    gates = read_json(artifact.path / GATES)
    store = VectorStore.load(artifact.path / STORE, artifact.manifest["inputs"]["router"]["digest"])
    gate = {name: Gate(**gates[name]) for name in ("persistent", "scratch")}
    reader = _trained(ScratchReader, artifact, READER, store.entries.width)
    slots = _trained(SlotReader, artifact, SLOTS, store.entries.width)
    return Memories(store=store, reader=reader, slots=slots, **gate)


def _trained(kind: type[Reader], artifact: Artifact, name: str, width: int) -> Reader | None:
    """A trained way to read memories; None from an artifact that is older than that."""
    if name not in artifact.manifest["files"]:
        return None
    reader = kind(width)
    fill(reader, load_weights(artifact.path / name), artifact.path / name)
    return reader.requires_grad_(False)
