"""The command lines that start a world."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrain.errors import BadInput
from distrain.launcher.command import World, choices, hosts_of_file, parse_hosts, start_command

WORKER = ["train", "job.yaml"]


def line(world: World, environment: dict[str, str] | None = None) -> str:
    return " ".join(start_command(world, WORKER, environment or {}).arguments)


def test_gloo_on_this_machine_stays_on_loopback() -> None:
    command = line(World(2))
    assert "horovodrun --gloo -np 2 --network-interfaces lo " in command
    assert command.endswith("-m distrain train job.yaml")


def test_gloo_on_hosts_finds_its_own_interfaces() -> None:
    command = line(World(4, hosts="h1:2,h2:2"))
    assert "-H h1:2,h2:2" in command
    assert "--network-interfaces" not in command


def test_mpi_carries_settings_and_nothing_else() -> None:
    environment = {"PATH": "/bin", "HOROVOD_CYCLE_TIME": "1", "SECRET": "x", "NCCL_DEBUG": "INFO"}
    command = line(World(2, controller="mpi"), environment)
    assert "mpirun -np 2" in command
    assert "-x HOROVOD_CYCLE_TIME -x NCCL_DEBUG -x PATH" in command
    assert "SECRET" not in command


def test_mpi_on_this_machine_listens_to_no_network() -> None:
    assert "--mca btl ^openib,tcp " in line(World(2, controller="mpi"))
    assert "--mca btl ^openib " in line(World(2, controller="mpi", hosts="h1:2"))


def test_a_host_file_is_what_hosts_are(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# those on the left\n\ngpu-1 slots=8\ngpu-2  slots = 4 # half\ngpu-3:2\ngpu-4\n")
    assert hosts_of_file(path) == "gpu-1:8,gpu-2:4,gpu-3:2,gpu-4"


@pytest.mark.parametrize("text", ["", "# none\n", "h1 slots=0", "h1 slots=x", "h1 max_slots=3", "h1,h2", "h1:2:3"])
def test_a_host_file_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(BadInput, match="expected HOST"):
        hosts_of_file(path)


def test_interfaces() -> None:
    assert "--network-interfaces lo" in line(World(2))
    assert "--network-interfaces eth1" in line(World(2, hosts="h1,h2", interface="eth1"))
    command = line(World(2, hosts="h1,h2", interface="eth1", controller="mpi"))
    assert "--mca btl_tcp_if_include eth1 --mca oob_tcp_if_include eth1" in command
    assert "-x NCCL_SOCKET_IFNAME=eth1" in command
    own = line(World(2, hosts="h1,h2", interface="eth1", controller="mpi"), {"NCCL_SOCKET_IFNAME": "ib0"})
    assert "NCCL_SOCKET_IFNAME=eth1" not in own
    assert "-x NCCL_SOCKET_IFNAME" in own


def test_open_mpi_yields_where_workers_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, yields in ((2, True), (4, False)):
        monkeypatch.setattr("distrain.launcher.command.cores", lambda cores=cores: cores)
        assert ("--mca mpi_yield_when_idle 1" in line(World(2, controller="mpi"))) is yields
        said = " ".join(choices(World(2, controller="mpi"), {}))
        assert (f"{'yields' if yields else 'does not yield'}, " in said) is True
        assert f"{cores // 2} for each of 2 workers on {cores} cores" in said
    assert "mpi_yield_when_idle" not in line(World(2, controller="mpi"), {"OMPI_MCA_mpi_yield_when_idle": "0"})
    assert "mpi_yield_when_idle" not in line(World(2, hosts="h1,h2", controller="mpi"))  # each host finds out


def test_every_worker_knows_how_many_there_are_to_be() -> None:
    assert "-x DISTRAIN_WORLD_SIZE=4" in line(World(4, hosts="h1:4", controller="mpi"))
    assert start_command(World(3), WORKER, {}).environment["DISTRAIN_WORLD_SIZE"] == "3"
    elastic = World(3, elastic=(1, 4), discover=Path("d"), slots_per_host=2)
    assert "DISTRAIN_WORLD_SIZE" not in start_command(elastic, WORKER, {}).environment
    assert "--slots-per-host 2" in line(elastic)


def test_in_a_slurm_job_mpirun_finds_the_hosts_itself() -> None:
    command = line(World(4, controller="mpi", slurm=True))
    assert "-np 4" in command
    assert "-H" not in command
    assert "--oversubscribe" not in command


@pytest.mark.parametrize(("text", "slots"), [("h1:2,h2:3", 5), ("h1", 1), ("h1:4", 4)])
def test_slots_of_hosts(text: str, slots: int) -> None:
    assert sum(number for _, number in parse_hosts(text)) == slots


@pytest.mark.parametrize("text", ["", "h1:0", "h1:x", ":2", "h1:2,,h2:2", "h1:-1"])
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="HOST:WORKERS"):
        parse_hosts(text)
