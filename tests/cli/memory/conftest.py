"""A root with two tiny trained-looking models of one tokenizer, and what someone has said to the first."""

import json
from pathlib import Path

import pytest
import torch

from nano_think.cli.memory.search import owner_of
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.experts import EXPERTS
from nano_think.inference.remembering import keys_of
from nano_think.memory.conversation import Conversations
from nano_think.memory.places import place
from nano_think.models.checkpoint import ModelShape, build_mixture, load_mixture, save_mixture
from nano_think.models.think import RouterConfig
from nano_think.stages.artifact import Artifact, open_artifact, seal, write_latest
from tests.perturbation import randomise_zeros
from tests.tiny import WIDTH, tiny_config

TEXTS = ["the cat sat on the mat and the cat slept", "a dog came by and the cat ran up a tree"]
VOCABULARY = 290


def make_model(root: Path, seed: int, vocabulary: int = VOCABULARY) -> Artifact:
    """A finished router artifact with its tokenizer, and a memory artifact that "latest" asks for too."""
    for stage in ("router", "memory"):
        (root / stage / f"key{seed}").mkdir(parents=True)
    folder = root / "router" / f"key{seed}"
    train_tokenizer(TokenizerConfig(vocab_size=vocabulary), iter(TEXTS * 3), folder)
    tokenizer = Tokenizer.load(folder)
    shape = ModelShape(
        width=WIDTH, vocabulary=vocabulary, window=16, start_token=tokenizer.bos,
        router=RouterConfig(n_heads=2, latent=8, rotated=4), experts={name: tiny_config(name) for name in EXPERTS},
    )  # fmt: skip
    torch.manual_seed(seed)
    model = randomise_zeros(build_mixture(shape))
    model.head.table.copy_(torch.randn(model.head.table.shape))
    save_mixture(folder, model, shape)
    artifact = seal(folder, "router", f"key{seed}", {"inputs": {}})
    memory = seal(root / "memory" / f"key{seed}", "memory", f"key{seed}", {"inputs": {}})
    write_latest(root, {"router": artifact, "memory": memory})
    return artifact


def say_to(root: Path, artifact: Artifact, namespace: str, texts: list[str]) -> Path:
    """Remember each text as a document; the memory's folder."""
    (model, shape), tokenizer, owner = load_mixture(artifact.path), Tokenizer.load(artifact.path), owner_of(artifact)
    with Conversations(place(root, owner.model, namespace), owner, write=True) as memory:
        for text in texts:
            tokens = torch.tensor(tokenizer.encode_document(text)).numpy()
            memory.append(memory.begin(), tokens, keys_of(model, tokens[:-1], shape.window))
    return memory.folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one model, to which alice and bob have spoken."""
    artifact = make_model(tmp_path / "root", 1)
    say_to(tmp_path / "root", artifact, "alice", TEXTS)
    say_to(tmp_path / "root", artifact, "bob", ["something else altogether"])
    return tmp_path / "root"


@pytest.fixture
def model(root: Path) -> Artifact:
    return open_artifact(root / json.loads((root / "latest.json").read_text())["router"])
