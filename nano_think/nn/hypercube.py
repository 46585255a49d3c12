"""Vertices of a hypercube as concepts: their numbers, and embeddings that are smooth on its graph.

A vertex is N bits; its neighbours differ in one. Bits are written as signs, -1 and 1.

N bits, D model width, F width of pairs
"""

import torch
from torch import Tensor, nn

from nano_think.nn.linear import linear


def pack_bits(signs: Tensor) -> Tensor:
    """Signs (..., N) -> the number of the vertex, (...): bit n is set where sign n is positive."""
    place_N = torch.arange(signs.shape[-1], device=signs.device)
    return ((signs > 0).long() << place_N).sum(dim=-1)


def unpack_bits(vertex: Tensor, bits: int) -> Tensor:
    """`pack_bits` undone: (...) -> signs (..., N)."""
    place_N = torch.arange(bits, device=vertex.device)
    return ((vertex[..., None] >> place_N) & 1) * 2.0 - 1


def gray_rank(vertex: Tensor, bits: int) -> Tensor:
    """The place of a vertex on the walk that changes one bit at a time (the reflected Gray code), (...)."""
    rank, shift = vertex.clone(), 1
    while shift < bits:
        rank = rank ^ (rank >> shift)
        shift *= 2
    return rank


def vertex_at(rank: Tensor) -> Tensor:
    """The vertex at a place of the walk, (...)."""
    return rank ^ (rank >> 1)


def concept_of(vertex: Tensor, bits: int, concepts: int) -> Tensor:
    """The number of a vertex's concept, below `concepts`: its rank where that is below; else that of its neighbour in
    the highest bit, whose rank mirrors it. At least half of the vertices must be concepts.
    """
    assert 2**bits >= concepts >= 2 ** (bits - 1), (bits, concepts)
    rank = gray_rank(vertex, bits)
    return torch.where(rank < concepts, rank, 2**bits - 1 - rank)


class VertexEmbedding(nn.Module):
    """C(s) = sum_b s_b u_b + P sum_{b<c} s_b s_c (f_b * f_c): signs, or their expectations, (..., N) -> (..., D).

    These are Walsh functions of degree 1 and 2 alone (pairs by factors, Rendle 2010, eq. 5), whose eigenvalues on the
    cube's graph, 2 and 4, are its smallest but 0: a step to a neighbour moves little. All 0 at first.
    """

    def __init__(self, bits: int, width: int, pairs: int):
        super().__init__()
        self.single = linear(bits, width, zero=True)
        self.factors = linear(bits, pairs)
        self.pairs = linear(pairs, width, zero=True)

    def forward(self, signs: Tensor) -> Tensor:
        squares = (signs**2) @ (self.factors.weight**2).T
        return self.single(signs) + self.pairs((self.factors(signs) ** 2 - squares) / 2)
