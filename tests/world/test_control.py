"""What ranks tell each other, in worlds of threads."""

from __future__ import annotations

from typing import Any

import pytest

from distrain.errors import BadInput, Diverged, RunEnds, RunFailed, WorldChanged
from distrain.world.control import AloneControl, Control, agree, agreed
from distrain.world.topology import World
from tests.support import in_world


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_rank_sees_every_ranks_value_in_rank_order(size: int) -> None:
    def gather(world: World, control: Control) -> list[list[Any]]:
        return [control.gather({"rank": world.rank}), control.gather(world.rank / 3), control.gather("ü" * world.rank)]

    expected = [[{"rank": r} for r in range(size)], [r / 3 for r in range(size)], ["ü" * r for r in range(size)]]
    assert [future.result() for future in in_world(size, gather)] == [expected] * size


@pytest.mark.parametrize("value", [None, 1, 0.1 + 0.2, "x", [1, [2]], {"a": None}, float("inf")])
def test_alone_a_value_comes_back_as_others_would_see_it(value: object) -> None:
    assert AloneControl().gather(value) == [value]
    assert AloneControl().gather((1, 2)) == [[1, 2]]


@pytest.mark.parametrize("kind", [BadInput, RunFailed, Diverged])
@pytest.mark.parametrize(("failing", "message"), [({0}, "a: x"), ({2}, "rank 2: a: x"), ({1, 2}, "rank 1: a: x")])
def test_one_ranks_error_is_all_ranks_error(kind: type[RunEnds], failing: set[int], message: str) -> None:
    """The lowest rank that failed speaks, and says who it is where it is not 0."""

    def act(world: World, control: Control) -> None:
        agree(control, kind("a: x") if world.rank in failing else None)

    errors = [future.exception() for future in in_world(3, act)]
    assert [type(error) for error in errors] == [kind] * 3
    assert [str(error) for error in errors] == [message] * 3
    assert all(isinstance(error, RunEnds) and error.agreed for error in errors)


@pytest.mark.parametrize(
    ("holding", "failing", "ends"),
    [
        ({0}, {2}, False),  # one that joins
        ({0, 1, 2}, {0}, False),  # rank 0 itself, which cannot write the log
        ({0, 1}, {0, 2}, False),
        ({0}, {0}, True),  # nobody is left who could go on
        ({0, 1}, {0, 1}, True),
        (set(), {2}, True),
    ],
)
def test_who_has_an_error_leaves_alone_while_another_holds_the_state(
    holding: set[int], failing: set[int], ends: bool
) -> None:
    def act(world: World, control: Control) -> None:
        error = BadInput(f"disk {world.rank}: x") if world.rank in failing else None
        agree(control, error, holds=world.rank in holding)

    errors = [future.exception() for future in in_world(3, act)]
    for rank, error in enumerate(errors):
        if ends:
            assert isinstance(error, BadInput)
            assert error.agreed
        elif rank in failing:
            assert isinstance(error, BadInput)
            assert not error.agreed
            assert str(error) == f"disk {rank}: x"
        else:
            assert isinstance(error, WorldChanged)


def test_without_an_error_all_go_on() -> None:
    assert [future.result() for future in in_world(3, lambda _, control: agree(control, None))] == [None] * 3


def test_each_rank_gets_its_own_value_once_all_have_one() -> None:
    futures = in_world(3, lambda world, control: agreed(control, lambda: world.rank * 2))
    assert [future.result() for future in futures] == [0, 2, 4]


def test_where_one_action_fails_all_raise() -> None:
    def act(world: World, control: Control) -> int:
        def action() -> int:
            if world.rank == 1:
                raise BadInput("picture.png: broken")
            return world.rank

        return agreed(control, action)

    errors = [future.exception() for future in in_world(3, act)]
    assert [str(error) for error in errors] == ["rank 1: picture.png: broken"] * 3


def test_what_is_no_end_of_a_run_passes_through() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        agreed(AloneControl(), fail)
