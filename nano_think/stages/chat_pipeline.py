"""The chat pipeline's configuration, and the pipeline as data: text and chats in, a model that talks and figures out.

A base is built here, or a trained mixture or chat model is taken for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from nano_think.core.config import Config, flatten, overlay, parse, read_yaml, to_dict
from nano_think.core.device import ComputeConfig, pick_compile, pick_device, pick_dtype, share_threads
from nano_think.core.errors import UsageError, nearest
from nano_think.data.ingest import IngestConfig
from nano_think.data.tokenizer import TokenizerConfig
from nano_think.experts import build_expert
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.chat import KIND, LONGEST
from nano_think.models.checkpoint import load_model
from nano_think.models.embedder import Embedder
from nano_think.parts import PARTS, PartConfig, build_part
from nano_think.stages.artifact import find_model
from nano_think.stages.chat_evaluate import ChatEvaluate, ChatEvaluateConfig, ChatEvaluateJob
from nano_think.stages.chat_report import ChatReport, ChatReportJob
from nano_think.stages.chats import Chats, ChatTokens, ChatTokensConfig
from nano_think.stages.embedding import Embedding, EmbeddingConfig, EmbeddingJob
from nano_think.stages.ingest import Ingest
from nano_think.stages.pipeline import Node, presets
from nano_think.stages.pretrain import Pretrain, PretrainConfig, PretrainJob
from nano_think.stages.sft import Reused, ReusedConfig, Sft, SftJob
from nano_think.stages.space import SpaceConfig, fitting
from nano_think.stages.text_base import TextBase, TextBaseJob
from nano_think.stages.tokenizer import TrainTokenizer
from nano_think.stages.tokens import Tokens, TokensConfig
from nano_think.training.loop import TrainConfig

# One field per registered part: a new file in parts/ adds its own, and with it its flags and its keys in presets.
Shapes: Any = make_dataclass(
    "Shapes",
    [(name, part.Config, field(default_factory=part.Config)) for name, part in PARTS.items()],
    bases=(Config,), frozen=True, kw_only=True, slots=True, namespace={"__doc__": "The shape of each part."},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsConfig(Shapes):
    """The second design's unusual parts: which are on, and their shapes."""

    on: tuple[str, ...] = ()
    """The parts that the chat model gets, by name; those that its base has it keeps."""
    since: Literal["chats", "text"] = "chats"
    """From when on the parts learn: with the chats, or with the text already, together with the body of a base that is
    built here."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.on if name not in PARTS]
        if unknown:
            raise ValueError(f"on: unknown part '{unknown[0]}'; wanted some of {', '.join(PARTS)}")

    def wanted(self) -> dict[str, PartConfig]:
        """The shapes of those that are on, by name."""
        return {name: getattr(self, name) for name in PARTS if name in self.on}


BUILT = ("tokenizer", "tokens", "embedding")
# Everybody's chats are learned or held out; there is no router that wants some of its own.
STARTER_CHATS = IngestConfig(sources=("starter_chat",), router_fraction=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatConfig(Config):
    """Everything that a chat model depends on."""

    seed: int = 1
    """Seed of the whole run; every stage has its own branch of it."""
    space: SpaceConfig = SpaceConfig(width=128, window=512)
    """The width, and the longest context: up to 16,384 tokens."""
    compute: ComputeConfig = ComputeConfig()
    """Device, precision and threads."""
    base: str = ""
    """What learns to chat: nothing to build it here, "latest" for the newest mixture or "chat-latest" for the newest
    chat model under the root, or the folder of one; then text, vocabulary, table and body are those of that model."""
    ingest: IngestConfig = IngestConfig()
    """The text of the base."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The vocabulary."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """The token table."""
    backbone: TransformerConfig = TransformerConfig(rope_base=500_000.0)
    """The body: layers, heads, inner width."""
    pretrain: PretrainConfig = PretrainConfig()
    """How the base is trained on the text."""
    parts: PartsConfig = PartsConfig()
    """What the chat model has besides a body and a head."""
    chats: IngestConfig = STARTER_CHATS
    """The chats: 'starter_chat' (no network), 'chats:GLOB' for files of your own, dolly, gsm8k or smoltalk from the
    hub."""
    sft: TrainConfig = TrainConfig()
    """How the base learns from the chats."""
    evaluate: ChatEvaluateConfig = ChatEvaluateConfig()
    """The final figures."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: wanted 0 to {2**63 - 1}, got {self.seed}")
        if self.base and self.parts.since == "text":
            raise ValueError("parts.since: a base that is given has learned its text; wanted chats, got text")
        if self.space.window > LONGEST:
            raise ValueError(f"space.window: wanted at most {LONGEST:,}, got {self.space.window:,}")
        width, vocabulary = self.space.width, self.tokenizer.vocab_size
        with torch.device("meta"):
            with fitting("embedding.model"):
                Embedder(self.embedding.model, width, torch.zeros(vocabulary))
            with fitting("backbone"):
                build_expert(KIND, self.backbone, width)
            for name, part in self.parts.wanted().items():
                with fitting(f"parts.{name}"):
                    build_part(name, part, width, vocabulary)


def load_chat_config(preset: str, *overrides: Mapping[str, Any]) -> ChatConfig:
    """The configuration of a chat preset with nested overrides laid over it, in order."""
    known = presets(chat=True)
    if preset not in known:
        raise UsageError(f"unknown chat preset '{preset}'.{nearest(preset, known)}")
    values, where = read_yaml(known[preset]), f"preset {preset}"
    for override in overrides:
        values, where = overlay(values, override), "configuration"
    return parse(ChatConfig, values, where)


def chat_title(preset: str, config: ChatConfig) -> str:
    """The preset's name, and which of its settings were changed."""
    shipped = dict(flatten(to_dict(load_chat_config(preset))))
    changed = [name for name, value in flatten(to_dict(config)) if shipped.get(name) != value]
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return f"{preset}, changed: {', '.join(changed[:4])}{more}" if changed else preset


def chat_plan(config: ChatConfig, root: Path, name: str = "") -> dict[str, Node]:
    """The chat pipeline as data, in an order in which every node comes after what it needs.

    root: where "latest" and "chat-latest" are looked for. Device, precision and threads are settled here.
    """
    device = pick_device(config.compute.device)
    settled = {
        "device": device.type, "dtype": pick_dtype(config.compute.dtype, device),
        "compile": pick_compile(config.compute.compile, device),
        "threads": share_threads(config.compute.threads, 1),
    }  # fmt: skip
    compute = parse(ComputeConfig, to_dict(config.compute) | settled, "compute")
    base = _reused(config, root) if config.base else _built(config, compute)
    # A base that is a whole chat model brings its table with it.
    table = () if isinstance(base["base"].stage, TextBase) else ("embedding",)
    parts = tuple(name for name in ("tokenizer", *table, "base") if name in base)
    space = _space_of(config, root) if config.base else config.space
    nodes = base | {"chats": Node(Chats(config.chats))}
    vocabulary = "tokenizer" if "tokenizer" in base else "base"
    nodes["chat_tokens"] = Node(ChatTokens(ChatTokensConfig()), ("chats", vocabulary))
    wanted = {name: to_dict(part) for name, part in config.parts.wanted().items()}
    job = SftJob(space=space, seed=config.seed, compute=compute, train=config.sft, parts=wanted)
    nodes["sft"] = Node(Sft(job), ("chat_tokens", *parts))
    evaluate = ChatEvaluateJob(space=space, seed=config.seed, compute=compute, evaluate=config.evaluate)
    nodes["chat_evaluate"] = Node(ChatEvaluate(evaluate), ("chat_tokens", *parts, "sft"))
    nodes["chat_report"] = Node(ChatReport(ChatReportJob(name=name, config=to_dict(config))), tuple(nodes))
    return nodes


def _built(config: ChatConfig, compute: ComputeConfig) -> dict[str, Node]:
    """The stages of the full pipeline, as far as one expert: with the same settings, these are its own artifacts."""
    space, seed = config.space, config.seed
    table = EmbeddingJob(space=space, seed=seed, compute=compute, embedding=config.embedding)
    own = {name: to_dict(part) for name, part in config.parts.wanted().items()}
    if own and config.parts.since == "text":
        whole = TextBaseJob(
            space=space, seed=seed, compute=compute, backbone=config.backbone, train=config.pretrain, parts=own
        )
        body = Node(TextBase(whole), BUILT)
    else:
        alone = PretrainJob(
            space=space, seed=seed, compute=compute, kind=KIND, expert=config.backbone, train=config.pretrain
        )
        body = Node(Pretrain(alone), ("tokens", "embedding"))
    return {
        "ingest": Node(Ingest(config.ingest)),
        "tokenizer": Node(TrainTokenizer(config.tokenizer), ("ingest",)),
        "tokens": Node(Tokens(TokensConfig()), ("ingest", "tokenizer")),
        "embedding": Node(Embedding(table), ("tokens",)),
        "base": body,
    }


def _reused(config: ChatConfig, root: Path) -> dict[str, Node]:
    return {"base": Node(Reused(ReusedConfig(folder=str(find_model(config.base, root)[0].path.resolve()))))}


def _space_of(config: ChatConfig, root: Path) -> SpaceConfig:
    """The width of the model that is reused, and the window that was asked for."""
    _, shape = load_model(find_model(config.base, root)[0].path)
    return SpaceConfig(width=shape.width, window=config.space.window)
