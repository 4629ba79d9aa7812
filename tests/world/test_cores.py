"""How many cores a host's processes have, within a container's quota."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrain.world.cores import cores, cpu_quota


@pytest.mark.parametrize(("bound", "quota", "expected"), [(64, 2.0, 2), (2, 8.0, 2), (8, 0.5, 1), (8, 2.5, 2)])
def test_what_a_process_is_bound_to_within_its_quota(bound: int, quota: float, expected: int) -> None:
    assert cores(bound, quota) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container(files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == expected
