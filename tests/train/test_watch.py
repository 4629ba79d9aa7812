"""The watch over standstill, in processes of their own, which it ends."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, time
from distrain.train import watch as module
module.FIRST_SECONDS = 1.5
watch = module.Watch(0.3, rank=0)
{body}
"""


def run(body: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr


def test_who_stands_still_shows_where_and_ends() -> None:
    code, errors = run("watch.doing('a step', after=3); time.sleep(5)")
    assert code == 1
    assert "rank 0 stands still, this is where:" in errors
    assert 'File "<string>", line 6 in <module>' in errors
    assert errors.splitlines()[-1].startswith("distrain: rank 0: no progress for 0 s after step 3, in a step; it waits")


def test_before_the_first_step_there_is_more_time() -> None:
    assert run("watch.doing('building'); time.sleep(0.9); watch.close()")[0] == 0
    code, errors = run("watch.doing('building', alone=True); time.sleep(5)")
    assert code == 1
    assert errors.splitlines()[-1] == "distrain: rank 0: no progress for 1 s, in building"


def test_and_in_each_new_world_until_a_step_more_is_done() -> None:
    begin = "watch.doing('a step', after=3); watch.starting('joining'); watch.rank = 2; "
    assert run(begin + "time.sleep(0.9); watch.doing('again', after=3); time.sleep(0.9); watch.close()")[0] == 0
    code, errors = run(begin + "watch.doing('a step', after=4); time.sleep(0.9); watch.close()")
    assert code == 1
    assert errors.splitlines()[-1].startswith("distrain: rank 2: no progress")


def test_closed_it_ends_nothing() -> None:
    assert run("watch.doing('a step', after=1); watch.close(); time.sleep(0.6)") == (0, "")
