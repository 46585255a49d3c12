"""No position sees the future, and the test that says so fails as soon as a mask is taken away."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nano_think.evaluation import memories, slots
from nano_think.evaluation.reading import Document, Reading, read
from nano_think.experts import EXPERTS, diffuser, transformer
from nano_think.experts.diffuser import Diffuser, Noise
from nano_think.heads.language import LanguageHead
from nano_think.memory.entries import Entries
from nano_think.memory.read import Gate, Neighbours, mixed_nll
from nano_think.memory.slots import SlotReader, Source
from nano_think.memory.store import VectorStore
from nano_think.models import embedder as embedder_module
from nano_think.models import think
from nano_think.models.chat import Chat
from nano_think.models.embedder import Embedder, EmbedderConfig
from nano_think.nn import blend, s6, ssm
from nano_think.nn.documents import number_documents, same_document
from tests.perturbation import assert_causal, randomise_zeros
from tests.tiny import (
    MODELS,
    START,
    VARIANTS,
    VOCABULARY,
    WIDTH,
    draw_tokens,
    tiny_expert,
    tiny_head,
    tiny_mixture,
    tiny_model,
)

T = 37
# Around the edges of chunks of 8, and of the document that begins at 20.
PLACES = (1, 7, 8, 9, 16, 20, 21, 32, 36)

Run = Callable[[Tensor], Tensor | tuple[Tensor, ...]]


def packed() -> Tensor:
    return draw_tokens(2, T, starts=(0, 20))


def run_expert(name: str) -> Run:
    expert, head = tiny_expert(name), tiny_head()
    return lambda tokens_BT: expert(head.embed(tokens_BT), number_documents(tokens_BT, START))


def run_model(name: str) -> Run:
    """The model's hidden, logits and streams; the weights too where they depend on anything."""
    model = tiny_model(name)

    def run(tokens_BT: Tensor) -> tuple[Tensor, ...]:
        routed = model(tokens_BT)
        outputs = (routed.hidden, model.logits(routed), routed.streams)
        fixed = name == "static" or routed.weights.shape[-1] == 1
        figures = model.judge(routed).values() if isinstance(model, Chat) else ()
        return (*outputs, *figures) if fixed else (*outputs, routed.weights, *figures)

    return run


def run_embedder(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The hidden states that the embedder hands to its head."""
    torch.manual_seed(0)
    config = EmbedderConfig(n_layers=2, n_heads=2, inner=32)
    model = randomise_zeros(Embedder(config, WIDTH, torch.zeros(VOCABULARY)))
    seen: list[Tensor] = []
    mean_nll = LanguageHead.mean_nll
    monkeypatch.setattr(LanguageHead, "mean_nll", lambda self, h, *others: seen.append(h) or mean_nll(self, h, *others))

    def run(tokens_BT: Tensor) -> Tensor:
        model.losses(torch.cat([tokens_BT, tokens_BT[:, :1]], dim=1), START)
        return seen[-1]

    return run


def run_blocks(size: int, offset: int = 0) -> tuple[Run, Callable[[int], int]]:
    """The diffuser in block mode over fixed noise, and the first row that may see the token at a place.

    The first row of a block stands for the token after its own index, so the block knows the tokens up to that index.
    """
    expert, head = tiny_expert("diffuser"), tiny_head()
    block_T = (torch.arange(T) + offset) // size
    log_snr_BT, query_BT = torch.randn(2, T), torch.rand(2, T) < 0.5
    x_BTD = torch.randn(2, T, WIDTH).masked_fill(query_BT[..., None], 0.0)
    documents_BT = number_documents(packed(), START)
    noise = Noise(x_BTD, x_BTD, log_snr_BT, query_BT, block_T.expand(2, -1), documents_BT)
    firsts = [row for row in range(T) if row == 0 or block_T[row] != block_T[row - 1]]
    assert isinstance(expert, Diffuser)
    return (
        lambda tokens_BT: expert.denoise(head.embed(tokens_BT), documents_BT, noise),
        lambda place: next(first for first in firsts if first >= place),
    )


def run_memory(find: Callable[[Reading], Neighbours]) -> Run:
    """The whole distribution with a memory mixed in, as -log p of every token of the vocabulary at every place."""
    model = tiny_mixture()
    gate = Gate(share=0.5, sharpness=5.0)

    def run(tokens_BT: Tensor) -> Tensor:
        rows = []
        for tokens in tokens_BT:
            (reading,) = read(model, [Document(tokens.numpy(), 1, "made")], window=16)
            neighbours = find(reading)
            nll_NV = -model.head.logits(reading.hidden).log_softmax(-1)
            words = (torch.full((len(nll_NV),), word) for word in range(VOCABULARY))
            rows.append(torch.stack([mixed_nll(nll_NV[:, w[0]], w, neighbours, gate) for w in words], dim=1))
        return torch.stack(rows)

    return run


def run_scratch() -> Run:
    return run_memory(memories.search_documents)


def run_persistent() -> Run:
    keys = torch.nn.functional.normalize(torch.randn(40, WIDTH), dim=1).numpy()
    store = VectorStore(Entries.of(keys, torch.randint(0, VOCABULARY, (40,)).numpy()))
    return run_memory(lambda reading: memories.search(store, reading))


def run_slots(source: Source) -> Run:
    """The same of a memory that is read as slots, by a reader with nothing left as it begins."""
    model, reader = tiny_mixture(), randomise_zeros(SlotReader(WIDTH))
    keys = torch.nn.functional.normalize(torch.randn(40, WIDTH), dim=1).numpy()
    store = VectorStore(Entries.of(keys, torch.randint(0, VOCABULARY, (40,)).numpy()))

    def run(tokens_BT: Tensor) -> Tensor:
        rows = []
        for tokens in tokens_BT:
            (reading,) = read(model, [Document(tokens.numpy(), 1, "made")], window=16)
            key_SD, value_S = slots.entries_of(reading, store, source)
            found = memories.look_up(reading, store)[source]
            told_ND = slots.read_slots(reader, model.head, reading.hidden, key_SD, value_S, found, source)
            rows.append(model.head.logits(told_ND).log_softmax(-1))
        return torch.stack(rows)

    return run


@pytest.mark.parametrize("name", VARIANTS)
def test_expert_cannot_see_the_future(name: str):
    """Changing a token leaves every output before it as it was, bit for bit."""
    assert_causal(run_expert(name), packed(), VOCABULARY, PLACES)


@pytest.mark.parametrize("name", MODELS)
def test_model_cannot_see_the_future(name: str):
    """Hidden, logits, streams and weights of the whole model, whatever a router looks at."""
    assert_causal(run_model(name), packed(), VOCABULARY, PLACES)


def test_static_weights_depend_on_nothing():
    model = tiny_mixture("static")
    with torch.no_grad():
        weights_BTK = model(packed()).weights
    assert (weights_BTK == weights_BTK[0, 0]).all() and weights_BTK[0, 0].unique().numel() == len(EXPERTS)


def test_embedder_cannot_see_the_future(monkeypatch: pytest.MonkeyPatch):
    assert_causal(run_embedder(monkeypatch), packed(), VOCABULARY, PLACES)


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_block_of_the_diffuser_cannot_see_itself(size: int, offset: int):
    """Rows of a block do not depend on clean tokens at or after the block's first token."""
    run, seen_at = run_blocks(size, offset)
    assert_causal(run, draw_tokens(2, T), START, (1, 3, 4, 5, 8, 9, 20, 24), seen_at)


@pytest.mark.parametrize(
    "run",
    [run_scratch, run_persistent, lambda: run_slots("scratch"), lambda: run_slots("persistent")],
    ids=["scratch", "persistent", "scratch as slots", "persistent as slots"],
)
def test_memory_cannot_see_the_future(run: Callable[[], Run]):
    """No probability of any token at a place depends on what comes after it, over windows and documents."""
    assert_causal(run(), draw_tokens(1, T), VOCABULARY, (1, 2, 15, 16, 17, 30, 35))


def everywhere(documents_BT: Tensor) -> Tensor:
    """A mask that has lost its direction."""
    return same_document(documents_BT, documents_BT)[:, None]


def backwards(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The convolution with time turned round."""
    return lambda self, x_BTI, documents_BT: method(self, x_BTI.flip(1), documents_BT.flip(1)).flip(1)


def spoil_scan(*args) -> Tensor:
    *parts, _chunk = args
    x, dt, A, B, C, documents = parts
    flipped = (x.flip(1), dt.flip(1), A, B.flip(1), C.flip(1), documents.flip(1))
    return ssm.scan_sequentially(*flipped).flip(1)


def spoil_selective_scan(*args, **more) -> tuple[Tensor, Tensor]:
    *inputs, A, B, C, D, fresh, z, state = args
    flipped = (x.flip(1) for x in inputs)
    y, last = SELECTIVE_SCAN(*flipped, A, B.flip(1), C.flip(1), D, fresh, z.flip(1), state, **more)
    return y.flip(1), last


def see_own_block(*places: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy rows that see the clean tokens of their own block: one row too many is enough."""
    clean, noisy = ORIGINAL_DOUBLED(*places)
    later = torch.cat([noisy[..., :1], noisy[..., : T - 1], noisy[..., T:]], dim=-1)
    return clean, noisy | later


def whole_mean(x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
    return x_BTD.mean(dim=1, keepdim=True).expand_as(x_BTD)


def sees_its_own_entry(query: Tensor, key: Tensor, value: Tensor, first: int, k: int) -> Neighbours:
    return ORIGINAL_EARLIER(query, key, value, first + 1, k)


SELECTIVE_SCAN = s6.selective_scan
ORIGINAL_DOUBLED = diffuser.doubled_masks
ORIGINAL_EARLIER = memories.earlier_in_document
LEAKS = {
    "transformer's mask": (transformer, "causal_mask", everywhere, lambda m: run_expert("transformer")),
    "diffuser's clean rows": (diffuser, "causal_mask", everywhere, lambda m: run_expert("diffuser")),
    "diffuser's noisy rows": (diffuser, "doubled_masks", see_own_block, lambda m: run_expert("diffuser")),
    "state space's convolution": (
        ssm.CausalConv, "forward", backwards(ssm.CausalConv.forward), lambda m: run_expert("state_space"),
    ),
    "state space's scan": (ssm, "scan_in_chunks", spoil_scan, lambda m: run_expert("state_space")),
    "S6's convolution": (
        ssm.CausalConv, "forward", backwards(ssm.CausalConv.forward), lambda m: run_expert("state_space s6"),
    ),
    "S6's scan": (s6, "selective_scan", spoil_selective_scan, lambda m: run_expert("state_space s6")),
    "router's mask": (think, "causal_mask", everywhere, lambda m: run_model("token")),
    "router's mean": (blend, "running_mean", whole_mean, lambda m: run_model("mean")),
    "one expert of the mixture": (transformer, "causal_mask", everywhere, lambda m: run_model("static")),
    "chat model's mask": (transformer, "causal_mask", everywhere, lambda m: run_model("chat")),
    "embedder's mask": (embedder_module, "causal_mask", everywhere, run_embedder),
    "scratch memory's age": (memories, "earlier_in_document", sees_its_own_entry, lambda m: run_scratch()),
    "scratch memory's age, as slots": (
        memories, "earlier_in_document", sees_its_own_entry, lambda m: run_slots("scratch"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_perturbation_notices_a_leak(leak: str, monkeypatch: pytest.MonkeyPatch):
    """Take one guard away, and the perturbation test fails."""
    owner, name, spoiled, build = LEAKS[leak]
    monkeypatch.setattr(owner, name, spoiled)
    tokens_BT = draw_tokens(1, T) if "memory" in leak else packed()
    with pytest.raises(AssertionError, match="sees the token at"):
        assert_causal(build(monkeypatch), tokens_BT, VOCABULARY, (2, 9, 30))


@pytest.mark.parametrize("size", [4, 8])
def test_perturbation_notices_a_block_that_sees_itself(size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diffuser, "doubled_masks", see_own_block)
    run, seen_at = run_blocks(size)
    with pytest.raises(AssertionError, match="sees the token at"):
        assert_causal(run, draw_tokens(2, T), START, (5, 9), seen_at)


def test_perturbation_notices_an_output_that_depends_on_nothing():
    with pytest.raises(AssertionError, match="does not depend"):
        assert_causal(lambda tokens_BT: torch.zeros(2, T, 3), packed(), VOCABULARY, (4,))
