"""What sleep does: near-duplicates become one entry that stands for all of them.

S entries, D model width, m entries of one document and value, l leaders
"""

import numpy as np

from nano_think.memory.entries import Entries

BLOCK = 1024


def merge(entries: Entries, threshold: float) -> np.ndarray:
    """New weights, (S): entries of one document with the same value whose keys have a cosine of at least `threshold`
    become one.

    What one conversation has said never stands for another's, so that either can be erased without a trace and without
    the other. The newest of them stays, with its own key and the sum of the weights; the others get 0. It must be the
    newest: an older one with a younger one's weight would tell a query between the two what came after it. With
    weights, what the memory says at a query is what it said before, as far as the merged keys are alike
    (`Neighbours.share`).
    """
    weight_S = entries.weight.copy()
    order_S = np.lexsort((entries.value, entries.document))
    parts_S = (np.diff(entries.document[order_S]) != 0) | (np.diff(entries.value[order_S]) != 0)
    bounds = np.flatnonzero(parts_S) + 1
    for members in np.split(order_S, bounds):
        if len(members) > 1:
            _merge_alike(entries.key, members[::-1], threshold, weight_S)
    return weight_S


def _merge_alike(keys_SD: np.ndarray, members_m: np.ndarray, threshold: float, weight_S: np.ndarray) -> None:
    """Within one document and value, the newest first: each entry joins the most similar earlier leader, or leads."""
    leaders_l = members_m[:0]
    for first in range(0, len(members_m), BLOCK):
        block = members_m[first : first + BLOCK]
        if len(leaders_l):
            similarity_ml = keys_SD[block] @ keys_SD[leaders_l].T
            near_m = similarity_ml.max(axis=1) >= threshold
            np.add.at(weight_S, leaders_l[similarity_ml[near_m].argmax(axis=1)], weight_S[block[near_m]])
            weight_S[block[near_m]] = 0
            block = block[~near_m]
        leaders_l = np.concatenate([leaders_l, _lead(keys_SD[block], block, threshold, weight_S)])


def _lead(keys_mD: np.ndarray, block_m: np.ndarray, threshold: float, weight_S: np.ndarray) -> np.ndarray:
    """The entries of a block that lead; each takes all that are near it and still free."""
    near_mm, free_m, leaders = keys_mD @ keys_mD.T >= threshold, np.ones(len(block_m), dtype=bool), []
    for number in range(len(block_m)):
        if free_m[number]:
            taken_m = free_m & near_mm[number]
            taken_m[: number + 1] = False
            weight_S[block_m[number]] += weight_S[block_m[taken_m]].sum()
            weight_S[block_m[taken_m]] = 0
            free_m &= ~taken_m
            leaders.append(number)
    return block_m[leaders]
