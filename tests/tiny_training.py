"""Trainings of every kind that take milliseconds, with dropout on unless told otherwise."""

import numpy as np
import torch

from nano_think.data.loader import Windows
from nano_think.experts import EXPERTS, build_expert
from nano_think.models.embedder import Embedder, EmbedderConfig
from nano_think.parts import PARTS
from nano_think.training.loop import TrainConfig, seed_everything
from nano_think.training.objectives import Objective
from nano_think.training.objectives.chat import ChatObjective, Marks
from nano_think.training.objectives.embedding import EmbedderObjective
from nano_think.training.objectives.expert import ExpertObjective
from nano_think.training.objectives.router import RouterObjective
from tests.tiny import PARTED, START, VOCABULARY, WIDTH, tiny_chat, tiny_config, tiny_head, tiny_mixture

WINDOW, STEPS, LOG_EVERY, SEED = 12, 11, 4, 17
# save_every is below nothing, so that every step is saved.
CONFIG = TrainConfig(tokens=STEPS * 4 * WINDOW, batch=4, save_every=-1.0, log_every=LOG_EVERY)
OBJECTIVES = [*EXPERTS, "embedding", "router", "chat", "chat mixture", *PARTED]
# With these ids for its marks, about half of the random tokens are said by the assistant.
MARKS = Marks(START, opens=1, ends=2)


def make_windows() -> Windows:
    tokens = np.random.default_rng(0).integers(0, START, 500)
    tokens[::40] = START
    return Windows(tokens, WINDOW, CONFIG.batch, seed=3)


def make_objective(name: str, **more) -> Objective:
    seed_everything(SEED)
    if name == "embedding":
        config = EmbedderConfig(n_layers=1, n_heads=2, inner=16)
        return EmbedderObjective(Embedder(config, WIDTH, torch.zeros(VOCABULARY)), START)
    if name == "router":
        return RouterObjective(
            tiny_mixture(randomised=False, n_layers=1), expert_dropout=more.get("dropout", 0.5), entropy=0.01
        )
    if name == "chat" or name in PARTED:
        parts = list(PARTS) if name == "chat parts" else name.split()[1:]
        return ChatObjective(tiny_chat(randomised=False, parts=parts, **{"dropout": 0.2} | more), MARKS)
    if name == "chat mixture":
        return ChatObjective(tiny_mixture(randomised=False, n_layers=1).thaw(), MARKS)
    return ExpertObjective(build_expert(name, tiny_config(name, **{"dropout": 0.2} | more), WIDTH), tiny_head(), START)


def make_calm(name: str) -> Objective:
    """An objective that draws nothing at random: what it says of a window does not depend on the windows beside it."""
    return make_objective(name, dropout=0.0, next_token_share=1.0, query_share=1.0, shift=0, noise=0.0)
