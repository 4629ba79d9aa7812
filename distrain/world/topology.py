"""Where a process stands among the workers, and which part of a batch is its own: values and integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """A worker's place; the words are Horovod's.

    `rank` of `size` workers in all, `local_rank` of `local_size` on this host. `controller` says who carries messages:
    "none" in a world of 1, else "mpi" or "gloo".
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    controller: str = "none"

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, self
        assert 0 <= self.local_rank < self.local_size, self


def share(count: int, *, rank: int, size: int) -> range:
    """Rank `rank`'s contiguous part of `count` things: the parts of all ranks cover 0 .. count - 1 once, in rank order.

    Sizes of parts differ by at most 1; a part is empty where there are fewer things than ranks.
    """
    return range(count * rank // size, count * (rank + 1) // size)
