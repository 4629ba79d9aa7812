"""Shares of a batch."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.world.topology import World, share


@given(count=st.integers(0, 10**12), size=st.integers(1, 64))
def test_shares_cover_all_once_in_rank_order_and_are_even(count: int, size: int) -> None:
    shares = [share(count, rank=rank, size=size) for rank in range(size)]
    assert (shares[0].start, shares[-1].stop) == (0, count)
    assert all(one.stop == other.start for one, other in pairwise(shares))
    lengths = [part.stop - part.start for part in shares]
    assert max(lengths) - min(lengths) <= 1


def test_with_fewer_things_than_ranks_some_have_none() -> None:
    assert [len(share(2, rank=rank, size=3)) for rank in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("place", [(2, 2, 0, 1), (-1, 2, 0, 1), (0, 2, 2, 2), (0, 0, 0, 1)])
def test_a_place_that_cannot_be(place: tuple[int, int, int, int]) -> None:
    with pytest.raises(AssertionError):
        World(*place)


def test_alone_is_a_world_of_one() -> None:
    assert World() == World(rank=0, size=1, local_rank=0, local_size=1, controller="none")
