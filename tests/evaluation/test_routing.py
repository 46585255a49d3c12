"""What the router does, counted: against loops over tokens, and against weights that tell nothing or everything."""

import numpy as np
import pytest
import torch

from nano_think.evaluation.reading import Document, Reading, read
from nano_think.evaluation.routing import CLASSES, DEPTHS, Routing, information, mutual_information, token_class
from tests.tiny import START, VOCABULARY, tiny_mixture

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(("content", "wanted"), [
    (b" the", "words"), (b"ing", "parts of words"), ("é".encode(), "parts of words"), (b" 42", "digits"),
    (b".", "punctuation"), (b',"', "punctuation"), (b"):", "punctuation"), (b" ==", "code signs"),
    (b"__", "code signs"),
    (b"\n    ", "spaces"), (b"x1", "mixed"), (b"(self", "mixed"), (b"\xc3", "bytes"), (b"", "spaces"),
])  # fmt: skip
def test_class_of_a_token(content: bytes, wanted: str):
    assert token_class(content) == wanted and token_class(content, special=True) == "special"


def make_reading(lengths: list[int], domains: list[str], weights_NK: torch.Tensor | None = None, seed=0) -> Reading:
    generator = torch.Generator().manual_seed(seed)
    documents = [Document(np.arange(n + 1), n, domain) for n, domain in zip(lengths, domains, strict=True)]
    N = sum(lengths)
    document_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    if weights_NK is None:
        weights_NK = torch.randn(N, len(NAMES), generator=generator).softmax(-1)
    target_N = torch.randint(0, VOCABULARY, (N,), generator=generator)
    return Reading(documents, document_N, target_N, torch.zeros(N, 2), weights_NK, {})


def test_means_are_those_of_a_loop_over_tokens():
    """Two groups of documents, one of them with a document of no tokens."""
    classes = [CLASSES[token % len(CLASSES)] for token in range(VOCABULARY)]
    readings = [make_reading([5, 0, 21], ["x", "y", "y"]), make_reading([3, 1], ["x", "y"], seed=1)]
    routing, wanted = Routing(NAMES, classes), {}
    for reading in readings:
        routing.add(reading)
        for n in range(len(reading.target)):
            document = int(reading.document[n])
            place, length = n - reading.of(document).start, len(reading.documents[document].tokens) - 1
            low = 2 ** int(np.log2(place + 1))
            groups = {
                "by_class": classes[int(reading.target[n])],
                "by_position": f"{low}-{2 * low - 1}" if low > 1 else "1",
                "by_depth": f"{10 * (DEPTHS * place // length)}-{10 * (DEPTHS * place // length) + 10}%",
            }  # fmt: skip
            for kind, group in groups.items():
                wanted.setdefault(kind, {}).setdefault(group, []).append(reading.weights[n].double())
    found = routing.figures()
    for kind, rows in wanted.items():
        assert found[kind].keys() == rows.keys()
        for group, weights in rows.items():
            assert found[kind][group]["tokens"] == len(weights)
            assert list(found[kind][group]["weights"].values()) == pytest.approx(torch.stack(weights).mean(0).tolist())


def test_weights_that_are_the_domain_tell_all_of_it():
    """One expert a domain: the information is the entropy of the domains, and no dealing finds as much."""
    domains = [NAMES[k % 3] for k in range(12)]
    weights = torch.eye(3).repeat_interleave(10, dim=0).repeat(4, 1)
    routing = Routing(NAMES, ["words"] * VOCABULARY)
    routing.add(make_reading([10] * 12, domains, weights))
    told = routing.figures()["information"]
    assert told["bits"] == pytest.approx(np.log2(3)) == told["most"]
    assert told["p"] < 0.01 and told["by_chance"] < told["by_chance_95"] < told["bits"]


def test_information_of_weights_that_know_nothing_is_the_bias():
    """Documents with weights of their own and domains drawn by lot: p is spread evenly, and the mean shows the bias."""
    dice, found = np.random.default_rng(0), []
    for seed in range(60):
        weights_MK = dice.dirichlet([1, 1, 1], size=20) * 50
        sums_MK1 = np.concatenate([weights_MK, np.full((20, 1), 50.0)], axis=1)
        found.append(information(sums_MK1, dice.integers(0, 2, 20).clip(0, 1), seed, permutations=99))
    assert 0.4 < np.mean([one["p"] for one in found]) < 0.6
    bits, by_chance = np.mean([one["bits"] for one in found]), np.mean([one["by_chance"] for one in found])
    assert by_chance > 0.005 and bits == pytest.approx(by_chance, rel=0.25)


def test_mutual_information_is_its_equation():
    sums = np.array([[3.0, 1.0, 4.0], [0.5, 3.5, 4.0]])
    p = sums[:, :2] / 8
    entropy = [-(q * np.log2(q)).sum() for q in (p.sum(0), p.sum(1), p.ravel())]
    assert mutual_information(sums) == pytest.approx(entropy[0] + entropy[1] - entropy[2])


def test_same_seed_same_figures_and_one_domain_has_no_information():
    sums, domain = np.random.default_rng(0).random((9, 4)), np.arange(9) % 2
    assert information(sums, domain, 3, 50) == information(sums, domain, 3, 50) != information(sums, domain, 4, 50)
    routing = Routing(NAMES, ["words"] * VOCABULARY)
    assert routing.figures() == {
        "by_class": {}, "by_position": {}, "by_depth": {}, "information": None
    }  # fmt: skip
    routing.add(make_reading([4, 4], ["x", "x"]))
    assert routing.figures()["information"] is None


def test_a_model_is_read():
    model = tiny_mixture()
    documents = [Document(np.array([START, *range(1, n)]), n, f"d{n % 2}") for n in (9, 40, 12)]
    routing = Routing(model.names, ["words"] * VOCABULARY)
    for reading in read(model, documents, 16):
        routing.add(reading)
    found = routing.figures()
    assert sum(row["tokens"] for row in found["by_depth"].values()) == 8 + 39 + 11
    assert all(sum(row["weights"].values()) == pytest.approx(1) for row in found["by_position"].values())
