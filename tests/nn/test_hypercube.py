"""Vertices, the walk over them, and embeddings that are smooth on the cube."""

import pytest
import torch

from nano_think.nn.hypercube import VertexEmbedding, concept_of, gray_rank, pack_bits, unpack_bits, vertex_at
from tests.perturbation import randomise_zeros

ALL = torch.arange(2**16)


def bits_apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (unpack_bits(one, 16) != unpack_bits(other, 16)).sum(-1)


def test_bits_and_numbers_are_one():
    assert torch.equal(pack_bits(unpack_bits(ALL, 16)), ALL)


def test_the_walk_goes_from_neighbour_to_neighbour_over_every_vertex():
    walk = vertex_at(ALL)
    assert (bits_apart(walk[1:], walk[:-1]) == 1).all() and torch.equal(walk.sort().values, ALL)
    assert torch.equal(gray_rank(walk, 16), ALL)


@pytest.mark.parametrize("concepts", [50_257, 2**15, 2**16])
def test_a_vertex_that_is_no_concept_is_its_neighbours(concepts: int):
    concept = concept_of(ALL, 16, concepts)
    rank = gray_rank(ALL, 16)
    assert concept.max() == concepts - 1 and len(concept.unique()) == concepts
    assert torch.equal(concept[rank < concepts], rank[rank < concepts])
    assert (bits_apart(vertex_at(concept), ALL) == (rank >= concepts)).all()


def test_an_embedding_has_walsh_functions_of_degree_one_and_two_alone():
    """On a cube of 5 bits: the transform of each channel is 0 at degree 0 and from 3 on."""
    layer = randomise_zeros(VertexEmbedding(5, 4, 3)).double()
    signs = unpack_bits(torch.arange(32), 5).double()
    walsh = torch.stack([signs[:, [n for n in range(5) if s >> n & 1]].prod(-1) for s in range(32)])
    spectrum = (walsh @ layer(signs)).detach().abs().amax(-1) / 32
    degree = torch.tensor([s.bit_count() for s in range(32)])
    assert (spectrum[(degree == 0) | (degree > 2)] < 1e-6).all() and (spectrum[degree == 1] > 1e-3).all()


def test_an_embedding_begins_at_nothing():
    assert not VertexEmbedding(16, 8, 4)(torch.randn(3, 16)).any()
