"""Artifacts: what a stage made, in a folder of its own, finished when `manifest.json` is in it.

ROOT/<stage>/<key>/ holds the files; the manifest is written last and holds their sizes and sha256.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.errors import ArtifactError, UsageError
from nano_think.core.files import digest, read_json, sha256, sync, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished folder. `digest` is of its files' contents: two artifacts with one digest are the same."""

    stage: str
    key: str
    path: Path
    digest: str

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.path / MANIFEST)

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage itself had to say about what it made."""
        return self.manifest["summary"]

    def reference(self) -> dict[str, str]:
        """The artifact as plain JSON, without the place where it lies."""
        return {"stage": self.stage, "key": self.key, "digest": self.digest}

    def verify(self, *names: str) -> "Artifact":
        """Return itself if every file, or each of `names`, is as it was when it was finished; else `ArtifactError`
        names the first that is not.
        """
        files = self.manifest["files"]
        for name in names or files:
            path, wanted = self.path / name, files[name]
            if not path.is_file():
                raise ArtifactError(f"{path}: missing; run the pipeline again to make it")
            if path.stat().st_size != wanted["bytes"]:
                raise ArtifactError(f"{path}: wanted {wanted['bytes']} bytes, got {path.stat().st_size}; run again")
            got = sha256(path)
            if got != wanted["sha256"]:
                raise ArtifactError(f"{path}: sha256 wanted {wanted['sha256'][:12]}, got {got[:12]}; run again")
        return self


def open_artifact(path: Path) -> Artifact:
    """The finished artifact in a folder; `ArtifactError` when there is none."""
    manifest = read_json(path / MANIFEST)
    try:
        return Artifact(manifest["stage"], manifest["key"], path, manifest["digest"])
    except (KeyError, TypeError):
        raise ArtifactError(f"{path / MANIFEST}: not the manifest of an artifact; run the pipeline again") from None


def seal(path: Path, stage: str, key: str, about: Mapping[str, Any], leave_out: str = "") -> Artifact:
    """Finish the folder `path`: flush what is in it to the disk, but for the subfolder `leave_out`, hash it, and write
    the manifest, so that it survives a power cut whoever wrote it.
    """
    inside = [one for one in sorted(path.rglob("*")) if one.relative_to(path).parts[0] != leave_out]
    found = [one for one in inside if one.is_file() and one.name != MANIFEST and not one.name.startswith(".")]
    for one in [*found, *(folder for folder in reversed(inside) if folder.is_dir()), path]:
        sync(one)
    files = {
        file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in found
    }
    contents = digest({name: file["sha256"] for name, file in files.items()})
    write_json(path / MANIFEST, {"stage": stage, "key": key, "digest": contents, **about, "files": files})
    return Artifact(stage, key, path, contents)


def discard(path: Path) -> None:
    """Remove a damaged artifact, its manifest first, so that it never looks finished."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def ancestor(artifact: Artifact, *inputs: str) -> Artifact | None:
    """The input of that name, then that one's input of the next name, and so on; None where one is not there any more.

    They are looked for under the root that the artifact itself lies in, and only there.
    """
    root = artifact.path.resolve().parent.parent
    for name in inputs:
        wanted = artifact.manifest.get("inputs", {}).get(name, {"stage": "", "key": "", "digest": ""})
        path = (root / wanted["stage"] / wanted["key"]).resolve()
        if path.parent.parent != root or not (path / MANIFEST).is_file():
            return None
        artifact = open_artifact(path)
        if artifact.digest != wanted["digest"]:
            return None
    return artifact


LATEST, CHAT_LATEST = "latest.json", "chat-latest.json"
MODELS = ("router", "sft")
"""The stages whose artifacts are models that one can talk to."""


def write_latest(root: Path, artifacts: Mapping[str, Artifact], name: str = LATEST) -> None:
    """Point ROOT/latest.json, or another file, at the artifacts of a pipeline that has just finished."""
    write_json(root / name, {name: f"{one.stage}/{one.key}" for name, one in artifacts.items()})


def find_model(model: str, root: Path) -> tuple[Artifact, Artifact | None]:
    """The model called `model` and the memory built for it, both verified.

    model: "latest" (of the full pipeline), "chat-latest" (of the chat pipeline, without a memory) or a folder.
    """
    if model == "chat-latest":
        return find_chat(root), None
    if model == "latest":
        if not (root / LATEST).is_file():
            raise UsageError(f"no finished model under '{root}'; train one with: nano-think run --root {root}")
        places = read_json(root / LATEST)
        if not isinstance(places, dict) or not {"router", "memory"} <= places.keys():
            raise ArtifactError(f"{root / LATEST}: names no model; run the pipeline again")
        found, memory = open_artifact(root / places["router"]), open_artifact(root / places["memory"])
        return found.verify(), memory.verify()
    path = Path(model).resolve()
    if not path.is_dir():
        wanted = "give 'latest', 'chat-latest' or the folder of a trained router or chat model"
        raise UsageError(f"model '{model}': no such folder; {wanted}")
    found = open_artifact(path).verify()
    if found.stage not in MODELS:
        wanted = " or ".join(f"'{stage}'" for stage in MODELS)
        raise UsageError(f"model '{model}': holds the artifact of the stage '{found.stage}', wanted {wanted}")
    return found, _memory_of(found)


def find_chat(root: Path) -> Artifact:
    """The model of the newest finished chat pipeline under `root`, verified."""
    if not (root / CHAT_LATEST).is_file():
        raise UsageError(f"no finished chat model under '{root}'; train one with: nano-think sft --root {root}")
    places = read_json(root / CHAT_LATEST)
    if not isinstance(places, dict) or "sft" not in places:
        raise ArtifactError(f"{root / CHAT_LATEST}: names no chat model; run the chat pipeline again")
    return open_artifact(root / places["sft"]).verify()


def _memory_of(model: Artifact) -> Artifact | None:
    memory = newest(model.path.parent.parent, "memory", router=model)
    return memory.verify() if memory else None


def finished(root: Path, stage: str) -> list[Path]:
    """The folders of the finished artifacts of a stage ("*" for all) under a root, the newest first."""
    manifests = sorted(root.glob(f"{stage}/*/{MANIFEST}"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [manifest.parent for manifest in manifests]


def newest(root: Path, stage: str, **inputs: Artifact) -> Artifact | None:
    """The artifact of a stage under a root that was finished last, of those that were made from exactly `inputs`."""
    for path in finished(root, stage):
        found = open_artifact(path)
        made_from = found.manifest.get("inputs", {})
        if all(made_from.get(name, {}).get("digest") == artifact.digest for name, artifact in inputs.items()):
            return found
    return None


def find_text(text: str, root: Path) -> dict[str, Artifact]:
    """The artifacts of the stages ingest and, as far as they are finished, tokenizer and tokens.

    text: "latest" (of the newest finished pipeline under `root`; if there is none, what a run under way has read) or
    the folder of an ingest artifact.
    """
    if text == "latest" and (root / LATEST).is_file():
        places = read_json(root / LATEST)
        if not isinstance(places, dict) or "ingest" not in places:
            raise ArtifactError(f"{root / LATEST}: names no text; run the pipeline again")
        names = [name for name in ("ingest", "tokenizer", "tokens") if name in places]
        return {name: open_artifact(root / places[name]).verify() for name in names}
    if text == "latest":
        found = newest(root, "ingest")
        if not found:
            remedy = f"make a run of it with: nano-think run --root {root}, or name some: --sources starter"
            raise UsageError(f"no text has been read under '{root}'; {remedy}")
    else:
        found = open_artifact(Path(text).resolve())
        if found.stage != "ingest":
            raise UsageError(f"'{text}': holds the artifact of the stage '{found.stage}', wanted 'ingest'")
    beside = found.path.parent.parent
    made = {"ingest": found, "tokenizer": newest(beside, "tokenizer", ingest=found)}
    made["tokens"] = newest(beside, "tokens", **{name: one for name, one in made.items() if one})
    return {name: one.verify() for name, one in made.items() if one}
