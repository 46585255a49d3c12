"""What the router does: its weights by domain, token and place, and how much of the domain they tell.

N tokens, K experts, G groups of tokens, M documents, V vocabulary
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nano_think.data.tokenizer import Tokenizer
from nano_think.evaluation.reading import Reading

PERMUTATIONS = 1000
DEPTHS = 10
# In this order in every table; what a token is stands for what it writes, spaces around it aside.
CLASSES = ("words", "parts of words", "digits", "punctuation", "code signs", "spaces", "mixed", "bytes", "special")
CODE_SIGNS = frozenset("_=<>{}[]()#/\\|&*+%@^~$`")


def token_class(content: bytes, special: bool = False) -> str:
    """The class of a token by the bytes that it stands for.

    "words" are letters behind a space, "parts of words" letters without one; "code signs" are of `CODE_SIGNS` alone,
    "punctuation" other signs or both; "bytes" is a piece of a letter; "mixed" is what has letters or digits and
    something else.
    """
    if special:
        return "special"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "bytes"
    core = text.strip()
    if not core:
        return "spaces"
    if core.isalpha():
        return "words" if text[0].isspace() else "parts of words"
    if core.isdigit():
        return "digits"
    if any(letter.isalnum() for letter in core):
        return "mixed"
    return "code signs" if CODE_SIGNS.issuperset(core) else "punctuation"


def token_classes(tokenizer: Tokenizer) -> list[str]:
    """The class of every token of a vocabulary."""
    special = set(tokenizer.special.values())
    return [token_class(tokenizer.token_bytes(token), token in special) for token in range(tokenizer.vocab_size)]


class Routing:
    """Sums of the weights of every token that is read, by group: memory grows with the documents, not with the text.

    A token is predicted, so the weights that it is given are those at the token before it: they were settled without
    it. Its class is that of what is predicted, and its position that in its document, where the first after the start
    token is 1.
    """

    def __init__(self, experts: Sequence[str], class_V: Sequence[str]):
        """class_V: the class of every token of the vocabulary."""
        self.experts = list(experts)
        self.class_V = np.array([CLASSES.index(name) for name in class_V])
        self.sums: dict[str, np.ndarray] = {}
        self.domains: list[str] = []
        self.documents: list[np.ndarray] = []

    def add(self, reading: Reading) -> None:
        """Count the tokens of a group of documents."""
        weights_NK = reading.weights.double().numpy()
        document_N, target_N = reading.document.numpy(), reading.target.numpy()
        length_M = np.bincount(document_N, minlength=len(reading.documents))
        first_M = length_M.cumsum() - length_M
        place_N = np.arange(len(document_N)) - first_M[document_N]
        self._count("class", self.class_V[target_N], weights_NK, len(CLASSES))
        self._count("position", np.log2(place_N + 1).astype(int), weights_NK, 64)
        self._count("depth", DEPTHS * place_N // length_M[document_N], weights_NK, DEPTHS)
        self.domains += [document.domain for document in reading.documents]
        self.documents.append(_sums(document_N, weights_NK, len(reading.documents)))

    def _count(self, name: str, group_N: np.ndarray, weights_NK: np.ndarray, groups: int) -> None:
        self.sums[name] = self.sums.get(name, 0) + _sums(group_N, weights_NK, groups)

    def figures(self, seed: int = 0) -> dict[str, Any]:
        """{"by_class", "by_position", "by_depth": {group: {"tokens", "weights": {expert: mean}}}, "information"}.

        Groups without tokens are left out. Positions are named by their powers of two. `information` is that of the
        weights about the domain, None for a single domain.
        """
        domains, domain_M = np.unique(np.array(self.domains, dtype=str), return_inverse=True)
        positions = ["1", *(f"{2**k}-{2 ** (k + 1) - 1}" for k in range(1, 64))]
        depths = [f"{k * 100 // DEPTHS}-{(k + 1) * 100 // DEPTHS}%" for k in range(DEPTHS)]
        empty = np.zeros((64, len(self.experts) + 1))
        return {
            "by_class": self._named(CLASSES, self.sums.get("class", empty)),
            "by_position": self._named(positions, self.sums.get("position", empty)),
            "by_depth": self._named(depths, self.sums.get("depth", empty)),
            "information": information(np.concatenate(self.documents), domain_M, seed) if len(domains) > 1 else None,
        }

    def _named(self, names: Sequence[str], sums_GK1: np.ndarray) -> dict[str, Any]:
        rows = ((name, row) for name, row in zip(names, sums_GK1, strict=False) if row[-1])
        return {
            name: {
                "tokens": int(row[-1]),
                "weights": dict(zip(self.experts, (row[:-1] / row[-1]).tolist(), strict=True)),
            }
            for name, row in rows
        }


def _sums(group_N: np.ndarray, weights_NK: np.ndarray, groups: int) -> np.ndarray:
    """The sum of the weights and the number of tokens by group, (G, K + 1)."""
    values_NK1 = np.concatenate([weights_NK, np.ones((len(weights_NK), 1))], axis=1)
    return _group(values_NK1, group_N, groups)


def _group(values_NC: np.ndarray, group_N: np.ndarray, groups: int) -> np.ndarray:
    columns = [np.bincount(group_N, weights=column, minlength=groups) for column in values_NC.T]
    return np.stack(columns, axis=1)


def mutual_information(sums_GK1: np.ndarray) -> float:
    """I(expert; group) in bits, if a token's expert were drawn by its weights.

    p(k, g) is the share of all weight that expert k has in group g; the sum of p log2(p(k, g) / (p(k) p(g))).
    """
    p_GK = sums_GK1[:, :-1] / max(sums_GK1[:, -1].sum(), 1)
    alone_GK = p_GK.sum(axis=1, keepdims=True) * p_GK.sum(axis=0, keepdims=True)
    there = p_GK > 0
    return float((p_GK[there] * np.log2(p_GK[there] / alone_GK[there])).sum())


def information(
    sums_MK1: np.ndarray, domain_M: np.ndarray, seed: int, permutations: int = PERMUTATIONS
) -> dict[str, Any]:
    """How much the weights tell of the domain, against domains that are dealt out to the documents anew.

    Whole documents are permuted, for the tokens of one are alike: shuffled tokens would make any router significant.
    The mean over permutations is what an estimate from so few documents finds where there is nothing ("by_chance");
    "p" is the share of them, this one counted, that find at least as much (Phipson and Smyth 2010). "most" is the
    entropy of the domains or log2 K, whichever is smaller. All in bits per token, but p.
    """
    groups, dice = int(domain_M.max()) + 1, np.random.default_rng(seed)
    found = mutual_information(_group(sums_MK1, domain_M, groups))
    by_chance = np.array([
        mutual_information(_group(sums_MK1, dice.permutation(domain_M), groups)) for _ in range(permutations)
    ])  # fmt: skip
    sums_GK1 = _group(sums_MK1, domain_M, groups)
    return {
        "bits": found, "by_chance": float(by_chance.mean()), "by_chance_95": float(np.quantile(by_chance, 0.95)),
        "p": float((1 + (by_chance >= found - 1e-12).sum()) / (1 + permutations)),
        "most": min(_entropy(sums_GK1[:, -1]), float(np.log2(max(1, sums_MK1.shape[1] - 1)))),
        "documents": len(domain_M), "permutations": permutations,
    }  # fmt: skip


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())
