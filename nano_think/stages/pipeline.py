"""The whole pipeline's configuration, and the pipeline as data: which stage, with which configuration, needs which."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from nano_think.core.config import Config, flatten, overlay, parse, read_yaml, to_dict
from nano_think.core.device import ComputeConfig, pick_compile, pick_device, pick_dtype, share_threads, without_numbers
from nano_think.core.errors import UsageError, nearest
from nano_think.data.ingest import IngestConfig
from nano_think.data.loader import Lean
from nano_think.data.tokenizer import TokenizerConfig
from nano_think.evaluation.scorers import LEFT_OUT, ROUTER, SECOND
from nano_think.experts import EXPERTS, build_expert, count_parameters, kind_of
from nano_think.models.dense import KIND, match_parameters
from nano_think.models.embedder import Embedder
from nano_think.models.think import Router
from nano_think.nn.blend import BlendKind
from nano_think.stages.added import ADDED
from nano_think.stages.calibration import CalibrationConfig, CalibrationJob, CalibrationStage
from nano_think.stages.dense import Dense, DenseJob
from nano_think.stages.embedding import Embedding, EmbeddingConfig, EmbeddingJob
from nano_think.stages.evaluate import Evaluate, EvaluateConfig, EvaluateJob
from nano_think.stages.ingest import Ingest
from nano_think.stages.memory import Memory, MemoryConfig, MemoryJob
from nano_think.stages.mixture import RouterJob, RouterTrainConfig
from nano_think.stages.modules import Told, load_modules
from nano_think.stages.pretrain import Pretrain, PretrainConfig, PretrainJob
from nano_think.stages.report import Report, ReportJob
from nano_think.stages.router import RouterStage
from nano_think.stages.space import Job, SpaceConfig, fitting
from nano_think.stages.stage import Stage
from nano_think.stages.tokenizer import TrainTokenizer
from nano_think.stages.tokens import Tokens, TokensConfig

# An expert's name is also the name of its stage and of its rows in every table.
TAKEN = {
    "ingest", "tokenizer", "tokens", "embedding", "router", "dense", "calibration", "memory", "evaluate", "report",
    "uniform", "static", "without_diffuser", "mixture", "oracle", SECOND,
}  # fmt: skip
assert not TAKEN & set(EXPERTS), f"experts cannot be called {sorted(TAKEN & set(EXPERTS))}"
assert not (TAKEN | set(EXPERTS)) & set(ADDED), f"added stages cannot be called {sorted(TAKEN | set(EXPERTS))}"

Controls = Literal["none", "dense", "all"]

# One field per registered expert: a new file in experts/ adds its own, and with it its flags and its keys in presets.
Experts: Any = make_dataclass(
    "Experts",
    [(name, expert.Config, field(default_factory=expert.Config)) for name, expert in EXPERTS.items()],
    bases=(Config,), frozen=True, kw_only=True, slots=True, namespace={"__doc__": "The shape of each expert."},
)  # fmt: skip

# As with the experts: one field per file in stages/added/.
Added: Any = make_dataclass(
    "Added",
    [(name, stage.Settings, field(default_factory=stage.Settings)) for name, stage in ADDED.items()],
    bases=(Config,), frozen=True, kw_only=True, slots=True, namespace={"__doc__": "The stages that were added."},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig(Config):
    """Everything that a run depends on."""

    seed: int = 1
    """Seed of the whole run; every stage has its own branch of it."""
    members: tuple[str, ...] = tuple(EXPERTS)
    """The experts that are trained and mixed, by name; "transformer_2" is a second transformer from another seed, of
    the first one's shape."""
    space: SpaceConfig = SpaceConfig()
    """What all parts share."""
    compute: ComputeConfig = ComputeConfig()
    """Device, precision and threads."""
    at_once: int = 0
    """Trainings at once on each device; 0 is as many as there are on a CPU, and on a GPU three if they fit into its
    memory. Digests do not depend on it (trainings)."""
    ingest: IngestConfig = IngestConfig()
    """The text."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The vocabulary."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """The shared token table."""
    experts: Experts = Experts()  # type: ignore[valid-type]
    """The shape of each expert."""
    pretrain: PretrainConfig = PretrainConfig()
    """How each expert is trained: the same for all."""
    router: RouterTrainConfig = RouterTrainConfig()
    """The router and its training."""
    controls: Controls = "dense"
    """What is trained to compare with: nothing ("none"); a transformer of equal parameters and equal training FLOPs,
    which takes about as much computation as all of them together ("dense"); or also every other kind of router, and a
    mixture with a second transformer in the diffuser's place ("all")."""
    calibration: CalibrationConfig = CalibrationConfig()
    """What makes figures comparable."""
    memory: MemoryConfig = MemoryConfig()
    """The vector store."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The final figures."""
    added: Added = Added()  # type: ignore[valid-type]
    """What each added stage is told."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.members if kind_of(name) not in EXPERTS]
        if unknown:
            raise ValueError(f"members: unknown expert '{unknown[0]}'.{nearest(unknown[0], EXPERTS)}")
        if self.at_once < 0:
            raise ValueError(f"at_once: wanted 0 or more, got {self.at_once}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: wanted 0 to {2**63 - 1}, got {self.seed}")
        if self.controls == "all" and self.router.model.fusion != "hidden":
            raise ValueError(
                "controls: 'all' compares routers that weigh hidden states; wanted router.model.fusion hidden"
            )
        if self.router.joint_tokens and self.compute.processes > 1:
            raise ValueError("router.joint_tokens: is trained by one process; set compute.processes 1")
        if not self.members or len(set(self.members)) < len(self.members):
            raise ValueError(f"members: wanted one or more different experts, got {list(self.members)}")
        self._build_without_numbers()

    def _build_without_numbers(self) -> None:
        """Build every model without memory or numbers: shapes that do not fit each other, and a mixture that no control
        can be equal to, are found before any work.
        """
        width, parts = self.space.width, list[nn.Module]()
        with without_numbers():
            with fitting("embedding.model"):
                Embedder(self.embedding.model, width, torch.zeros(self.tokenizer.vocab_size))
            with fitting("router.model"):
                parts.append(Router(self.router.model, width, len(self.members)))
            for name in self.members:
                with fitting(f"experts.{kind_of(name)}"):
                    parts.append(build_expert(name, getattr(self.experts, kind_of(name)), width))
        if self.controls != "none":
            try:
                with fitting(f"experts.{KIND}"):
                    match_parameters(sum(map(count_parameters, parts)), width, getattr(self.experts, KIND))
            except UsageError as error:
                raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Node:
    """A stage in the pipeline and the nodes whose artifacts it takes."""

    stage: Stage
    needs: tuple[str, ...] = ()


def load_code(nodes: Mapping[str, Node]) -> dict[str, Told]:
    """The modules that any of these nodes use, loaded, as other processes are told of them (`load_modules`)."""
    return load_modules(*{name for node in nodes.values() for name in node.stage.modules()})


def presets(chat: bool = False) -> dict[str, Path]:
    """The shipped presets by name: of the full pipeline, or of the chat pipeline, which are called chat..."""
    folder = Path(str(resources.files("nano_think") / "presets"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml")) if file.stem.startswith("chat") == chat}


def load(preset: str, *overrides: Mapping[str, Any]) -> PipelineConfig:
    """The configuration of a preset with nested overrides laid over it, in order."""
    known = presets()
    if preset not in known:
        raise UsageError(f"unknown preset '{preset}'.{nearest(preset, known)}")
    values, where = read_yaml(known[preset]), f"preset {preset}"
    for override in overrides:
        values, where = overlay(values, override), "configuration"
    return parse(PipelineConfig, values, where)


def title(preset: str, config: PipelineConfig) -> str:
    """The preset's name, and which of its settings were changed: a report must not call that by the bare name."""
    shipped = dict(flatten(to_dict(load(preset))))
    changed = [name for name, value in flatten(to_dict(config)) if shipped.get(name) != value]
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return f"{preset}, changed: {', '.join(changed[:4])}{more}" if changed else preset


def plan(config: PipelineConfig, name: str = "") -> dict[str, Node]:
    """The pipeline as data, in an order in which every node comes after what it needs.

    `name` is what the run is called in its report. Device, precision and threads are settled here, since they belong to
    a training's key.
    """
    device = pick_device(config.compute.device)
    settled = {
        "device": device.type, "dtype": pick_dtype(config.compute.dtype, device),
        "compile": pick_compile(config.compute.compile, device),
    }  # fmt: skip
    compute = parse(ComputeConfig, to_dict(config.compute) | settled, "compute")
    alone = replace(compute, threads=share_threads(config.compute.threads, 1))
    at_once = len(config.members) + (config.controls != "none")
    shared = replace(compute, threads=share_threads(config.compute.threads, at_once))
    space, seed = config.space, config.seed
    embedding = EmbeddingJob(space=space, seed=seed, compute=alone, embedding=config.embedding)
    nodes = {
        "ingest": Node(Ingest(config.ingest)),
        "tokenizer": Node(TrainTokenizer(config.tokenizer), ("ingest",)),
        "tokens": Node(Tokens(TokensConfig()), ("ingest", "tokenizer")),
        "embedding": Node(Embedding(embedding), ("tokens",)),
    }
    router = RouterJob(space=space, seed=seed, compute=alone, router=config.router, members=config.members)
    others = rivals(router) if config.controls == "all" else []
    trained: dict[str, PretrainJob] = {}
    for one in (router, *others):
        for reader, member in enumerate(one.members):
            trained.setdefault(member, _expert(config, member, shared, reader))
    nodes |= {name: Node(Pretrain(job), ("tokens", "embedding")) for name, job in trained.items()}
    controls = tuple(one.name for one in others)
    if config.controls != "none":
        base, jobs = getattr(config.experts, KIND), tuple(trained[name] for name in config.members)
        dense = DenseJob(space=space, seed=seed, compute=shared, experts=jobs, router=router, base=base)
        nodes["dense"] = Node(Dense(dense), ("tokens", "embedding"))
        controls = ("dense", *controls)
    for one in (router, *others):
        nodes[one.name] = Node(RouterStage(one), ("tokenizer", "tokens", "embedding", *one.members))
    memory = MemoryJob(space=space, seed=seed, compute=alone, memory=config.memory)
    nodes["memory"] = Node(Memory(memory), ("tokens", "router"))
    calibration = CalibrationJob(space=space, seed=seed, compute=alone, calibration=config.calibration)
    nodes["calibration"] = Node(CalibrationStage(calibration), ("tokens", "router", *controls))
    evaluate = EvaluateJob(space=space, seed=seed, compute=alone, evaluate=config.evaluate)
    nodes["evaluate"] = Node(Evaluate(evaluate), ("tokens", "router", *controls, "calibration", "memory"))
    _add(nodes, config, Job(space=space, seed=seed, compute=alone))
    report = Report(ReportJob(name=name, config=to_dict(config)))
    nodes["report"] = Node(report, tuple(nodes))
    return nodes


def _add(nodes: dict[str, Node], config: PipelineConfig, job: Job) -> None:
    """Put every added stage behind what it needs, which may be another one."""
    waiting = dict(ADDED)
    while waiting:
        name = next((one for one in waiting if nodes.keys() >= set(waiting[one].needs)), None)
        if name is None:
            wanted = sorted(
                {need for stage in waiting.values() for need in stage.needs} - nodes.keys() - waiting.keys()
            )
            raise UsageError(f"{', '.join(waiting)}: needs {', '.join(wanted)}, which this run does not have")
        stage = waiting.pop(name)
        nodes[name] = Node(stage.planned(getattr(config.added, name), job), stage.needs)


def _expert(config: PipelineConfig, name: str, compute: ComputeConfig, reader: int) -> PretrainJob:
    """The training of the expert called `name`, which leans to the domains of that reader, if to any."""
    kind, train = kind_of(name), config.pretrain
    lean = None if train.lean == 1 else Lean(reader=reader, readers=len(config.members), by=train.lean)
    return PretrainJob(
        space=config.space, seed=config.seed, compute=compute, kind=kind, expert=getattr(config.experts, kind),
        train=train, lean=lean, number=1 if name == kind else int(name.removeprefix(f"{kind}_")),
    )  # fmt: skip


def rivals(router: RouterJob) -> list[RouterJob]:
    """The routers that a run's own is compared with: the other kinds over the same experts, and its own kind over a
    second transformer in the diffuser's place, where there is one to replace.
    """
    model = router.router.model
    found = [
        replace(router, name=f"{ROUTER}{kind}", router=replace(router.router, model=replace(model, kind=kind)))
        for kind in get_args(BlendKind) if kind != model.kind
    ]  # fmt: skip
    further = f"{KIND}_2"
    if {LEFT_OUT, KIND} <= set(router.members) and further not in router.members:
        members = tuple(further if name == LEFT_OUT else name for name in router.members)
        found.append(replace(router, name=SECOND, members=members))
    return found
