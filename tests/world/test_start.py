"""Reading what launchers set, and agreeing on job and versions before anything else."""

from __future__ import annotations

import pytest

from distrain.errors import BadInput, WorldChanged
from distrain.world.control import AloneControl, Control
from distrain.world.devices import threads_for
from distrain.world.start import (
    RESTING,
    YIELD,
    Launched,
    Started,
    announced_rank,
    check_same,
    launched,
    settings_for,
    start,
)
from distrain.world.topology import World
from distrain.world.versions import versions
from tests.support import in_world


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launched("none", 1)),
        ({"HOROVOD_SIZE": "2", "HOROVOD_RANK": "1"}, Launched("gloo", 2)),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, Launched("mpi", 4)),
        ({"PMI_SIZE": "3"}, Launched("mpi", 3)),
        ({"HOROVOD_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}, Launched("gloo", 2)),
        ({"HOROVOD_SIZE": "1"}, Launched("none", 1)),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, Launched("none", 1)),
        ({"HOROVOD_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "4"}, Launched("mpi", 4)),
    ],
)
def test_how_a_process_was_started(environment: dict[str, str], expected: Launched) -> None:
    assert launched(environment) == expected


@pytest.mark.parametrize("text", ["", "two", "0", "-1", "2.0", "²"])
@pytest.mark.parametrize("name", ["HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_a_size_that_is_none_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: expected a number of workers, got '{text}'"):
        launched({name: text})


def test_a_world_of_another_size_than_was_launched_is_refused() -> None:
    """As under an Open MPI that finds neither hosts nor slots: each process is alone, and all would write one run."""
    expected = {"DISTRAIN_WORLD_SIZE": "4"}
    assert launched(expected | {"OMPI_COMM_WORLD_SIZE": "4"}).size == 4
    for found in ({}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"HOROVOD_SIZE": "3"}):
        with pytest.raises(BadInput, match="expected the 4 that were launched"):
            launched(expected | found)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"HOROVOD_RANK": "3"}, 3),
        ({"OMPI_COMM_WORLD_RANK": "2"}, 2),
        ({"PMI_RANK": "1"}, 1),
        ({"HOROVOD_RANK": "x", "PMI_RANK": "1"}, 1),
    ],
)
def test_the_rank_that_was_announced(environment: dict[str, str], rank: int) -> None:
    assert announced_rank(environment) == rank


@pytest.mark.parametrize(
    ("controller", "size", "local_size", "cores", "set_by_hand", "yields", "rests"),
    [
        ("gloo", 2, 1, 8, {}, False, True),
        ("mpi", 2, 2, 2, {}, True, True),
        ("mpi", 2, 2, 4, {}, False, False),  # polling would take a core from others
        ("mpi", 4, 2, 2, {}, True, False),  # the other host may not yield
        ("mpi", 2, 2, 4, {YIELD: "1"}, False, True),
        ("mpi", 2, 2, 2, {YIELD: "0"}, True, False),
    ],
)
def test_ranks_rest_where_waiting_takes_nothing_from_others(
    controller: str, size: int, local_size: int, cores: int, set_by_hand: dict[str, str], yields: bool, rests: bool
) -> None:
    environment = {"OMPI_COMM_WORLD_LOCAL_SIZE": str(local_size), **set_by_hand}
    settings = settings_for(Launched(controller, size), environment, cores)
    assert (YIELD in settings, settings.keys() >= RESTING.keys()) == (yields, rests)


def test_alone_nothing_is_started() -> None:
    started = start({})
    assert (started.world, started.horovod, started.control.gather(5)) == (World(), None, [5])
    started.close()


def _check(digests: list[str]) -> list[BaseException | None]:
    def check(world: World, control: Control) -> None:
        check_same(Started(world, control, close=lambda: None), digests[world.rank])

    return [future.exception() for future in in_world(len(digests), check)]


def test_the_same_job_everywhere_is_fine() -> None:
    assert _check(["a", "a", "a"]) == [None] * 3


def test_another_job_on_one_rank_is_refused_by_all() -> None:
    errors = _check(["a", "a", "b"])
    assert {str(error) for error in errors} == {"rank 2 and rank 0 differ in the job: b and a, expected the same"}
    assert all(isinstance(error, BadInput) and error.agreed for error in errors)


def test_one_that_joins_a_run_with_another_job_leaves_alone() -> None:
    def check(world: World, control: Control) -> None:
        started = Started(world, control, close=lambda: None)
        check_same(started, "ab"[world.rank == 0], holds=world.rank == 1)

    errors = [future.exception() for future in in_world(3, check)]
    assert str(errors[0]) == "this worker and rank 1 differ in the job: b and a, expected the same"
    assert isinstance(errors[0], BadInput)
    assert not errors[0].agreed
    assert [type(error) for error in errors[1:]] == [WorldChanged] * 2


@pytest.mark.parametrize("package", ["distrain", "python", "tensorflow", "horovod", "numpy"])
def test_other_versions_are_refused(package: str) -> None:
    """A control plane stands for the rank on another machine."""

    class Other(AloneControl):
        def gather(self, value: dict[str, str]) -> list[dict[str, str]]:
            return [value, {**value, f"{package}'s version": "0.0"}]

    with pytest.raises(BadInput, match=f"rank 1 and rank 0 differ in {package}'s version: 0.0 and "):
        check_same(Started(World(), Other(), close=lambda: None), "a")
    assert versions()[package] not in ("0.0", "absent")


def test_versions_name_what_a_run_depends_on() -> None:
    packages = {"tensorflow", "keras", "horovod", "openmpi", "mpi4py", "numpy", "distrain-kernels"}
    assert {"distrain", "python", *packages} == set(versions())


@pytest.mark.parametrize(
    ("local_size", "cores", "bound", "threads"),
    [(1, 8, 8, 8), (2, 8, 8, 4), (3, 8, 8, 2), (4, 2, 2, 1), (1, 8, 2, 2), (2, 8, 1, 1), (64, 8, 8, 1)],
)
def test_a_worker_gets_its_share_of_the_cores(local_size: int, cores: int, bound: int, threads: int) -> None:
    world = World(0, local_size, 0, local_size, "gloo" if local_size > 1 else "none")
    assert threads_for(world, cores=cores, bound_cores=bound) == threads
