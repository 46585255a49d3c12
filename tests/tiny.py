"""Models that are built in milliseconds; an expert that is new in the registry needs no line here."""

import dataclasses
from collections.abc import Sequence
from typing import get_args, get_type_hints

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from nano_think.experts import EXPERTS, Expert, ExpertConfig, build_expert
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.chat import Chat, Model
from nano_think.models.think import NanoThink, Router, RouterConfig
from nano_think.nn.blend import BlendKind
from nano_think.parts import PARTS, Part, build_part
from tests.perturbation import randomise_zeros

WIDTH, VOCABULARY, START = 16, 50, 49
SHAPE = {
    "n_layers": 2, "n_heads": 2, "inner": 32, "n_state": 4, "head_width": 8, "taps": 4, "chunk": 8, "code": 8,
}  # fmt: skip
# Of parts: small enough that every piece of their working is met within a few tokens.
SMALL_PARTS = {"segment": 2, "base": 2, "columns": 3, "slots": 2, "heads": 2}
ROUTER_KINDS: tuple[BlendKind, ...] = ("static", "mean", "token", "expert")
# And what else a router can be asked for, as "kind setting".
ROUTERS = (*ROUTER_KINDS, "expert mha", "expert probability")
# The chat model with each registered part, and with all of them.
PARTED = (*(f"chat {name}" for name in PARTS), "chat parts")
# Every whole model that reads tokens: mixtures by their routers, the chat model, a mixture thawed to be one.
MODELS = (*ROUTERS, "chat", "chat mixture", *PARTED)


def variants() -> list[str]:
    """Every registered expert, and each further form that its configuration offers, as "name form"."""
    found = []
    for name, kind in EXPERTS.items():
        _, *others = get_args(get_type_hints(kind.Config).get("form", str)) or ("",)
        found += [name, *(f"{name} {form}" for form in others)]
    return found


VARIANTS = variants()


def few(examples: int) -> settings:
    """Settings of a property test: so many examples, the same in every run, nothing kept, and no judgement of how fast
    the machine is.
    """
    slow = [HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=slow)


def tiny_config(name: str, **more) -> ExpertConfig:
    """The configuration of any variant of a registered expert, with what it has of the small shape."""
    name, _, form = name.partition(" ")
    kind = EXPERTS[name].Config
    known = {field.name for field in dataclasses.fields(kind)}
    wanted = SHAPE | more | ({"form": form} if form else {})
    return kind(**{key: value for key, value in wanted.items() if key in known})


def tiny_expert(name: str, seed: int = 0, **more) -> Expert:
    """An expert in evaluation mode with nothing left at zero."""
    torch.manual_seed(seed)
    return randomise_zeros(build_expert(name.split()[0], tiny_config(name, **more), WIDTH)).eval()


def tiny_head(seed: int = 0) -> LanguageHead:
    generator = torch.Generator().manual_seed(seed)
    table_VD = normalise_table(torch.randn(VOCABULARY, WIDTH, generator=generator))
    return LanguageHead(table_VD, torch.randn(VOCABULARY, generator=generator).log_softmax(0))


def tiny_router(name: str = "expert", n_experts: int = len(EXPERTS)) -> Router:
    """One of `ROUTERS`, freshly initialised."""
    kind, _, setting = name.partition(" ")
    more = {"": {}, "mha": {"attention": "mha"}, "probability": {"fusion": "probability"}}[setting]
    return Router(RouterConfig(kind=kind, n_heads=2, latent=8, rotated=4, **more), WIDTH, n_experts)  # type: ignore


def tiny_mixture(name: str = "expert", randomised: bool = True, **more) -> NanoThink:
    """A mixture of all registered experts, in evaluation mode; the router as at its start unless randomised."""
    experts = {name: tiny_expert(name, seed, **more) for seed, name in enumerate(EXPERTS)}
    router = tiny_router(name, len(experts))
    return NanoThink(tiny_head(), experts, randomise_zeros(router) if randomised else router, START).eval()


def tiny_chat(randomised: bool = True, parts: Sequence[str] = (), **more) -> Chat:
    """A chat model with a body of its own, in evaluation mode; as at its start unless randomised."""
    torch.manual_seed(0)
    backbone = build_expert("transformer", tiny_config("transformer", **more), WIDTH)
    model = Chat(tiny_head(), backbone, START, {name: tiny_part(name, **more) for name in parts})  # type: ignore
    return (randomise_zeros(model) if randomised else model).eval()  # type: ignore


def tiny_part(name: str, **more) -> Part:
    """A registered part over the tiny vocabulary, whose first 30 ids are digits."""
    known = {field.name for field in dataclasses.fields(PARTS[name].Config)}
    config = PARTS[name].Config(**{key: value for key, value in (SMALL_PARTS | more).items() if key in known})
    part = build_part(name, config, WIDTH, VOCABULARY)
    words = [str(token % 10).encode() if token < 30 else b"word" for token in range(VOCABULARY)]
    part.study(words, tiny_head())
    return part


def tiny_model(name: str, **more) -> Model:
    """Any of `MODELS`, in evaluation mode."""
    if name == "chat" or name in PARTED:
        parts = list(PARTS) if name == "chat parts" else name.split()[1:]
        return tiny_chat(parts=parts, **more)
    return tiny_mixture(**more).thaw() if name == "chat mixture" else tiny_mixture(name, **more)


def draw_tokens(B: int, T: int, starts: tuple[int, ...] = (0,), seed: int = 0) -> Tensor:
    """Random ids, (B, T), with start tokens at the given places and nowhere else."""
    tokens_BT = torch.randint(0, START, (B, T), generator=torch.Generator().manual_seed(seed))
    tokens_BT[:, list(starts)] = START
    return tokens_BT


class Words:
    """Of a tokenizer, what the engine needs: id 7 is "7 "."""

    def token_bytes(self, token: int) -> bytes:
        return f"{token} ".encode()
