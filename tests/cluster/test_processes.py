"""``--workers``: processes of this machine that are killed, that kill themselves, and that outlive nobody."""

from __future__ import annotations

import os
import re
import signal
import time

import psutil
import pytest

from .conftest import in_time

SLOW = ("Nudge:pause=0.4", "Nudge:amount=2/255,pause=0.4", "Nudge:amount=3/255,pause=0.4")


def workers_of(pid: int) -> list[psutil.Process]:
    """Processes below another that live."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=0)[1]


@pytest.mark.slow
def test_a_job_that_always_kills_its_worker_costs_one_row(light, capfd):
    assert light("serial", attacks=("Nudge",)) == 0
    assert light("deadly", "--workers", "2", attacks=("Nudge", "Deadly")) == 1
    records = light.records("deadly")
    (failure,) = records.failures.to_dict("records")
    assert (failure["case"], failure["attack"][:12]) == ("case_001", "light:Deadly")
    assert failure["error"] == (
        "lost 3 times, the last time while nothing else ran, so it is the suspect: its worker was lost: killed by "
        "SIGKILL, as a system short of memory does"
    )
    assert len(records.costs) == 3 * 3 - 1
    wanted = light.records("serial").scores
    both = wanted.merge(
        records.scores, on=["unit", "class_id"], suffixes=("", "_other"), validate="one_to_one"
    )
    assert len(both) == len(wanted)
    assert (both["dice"] == both["dice_other"]).all()
    said = capfd.readouterr()
    assert "it is tried again alone" in said.err
    assert "Traceback" not in said.out + said.err
    # The next run tries it again, and a failure that is known is not written twice.
    sizes = {
        p: p.stat().st_size for p in (light.root / "deadly").rglob("*.jsonl") if p.name != "provenance.jsonl"
    }
    assert light("deadly", "--workers", "2", attacks=("Nudge", "Deadly")) == 1
    assert sizes == {path: path.stat().st_size for path in sizes}


@pytest.mark.usefixtures("hears_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interruption_stops_everybody_at_once_and_keeps_what_is_finished(light, number):
    # Two rows at once, then jobs of a minute, in which a worker is when the signal comes.
    run = light.start("stopped", "--workers", "2", attacks=("Nudge", "Nudge:amount=2/255,pause=60"))
    light.wait_for_rows("stopped", 2)
    below = workers_of(run.pid)
    run.send_signal(number)
    said, _ = run.communicate(timeout=45)
    assert run.returncode == 130
    assert re.search(
        r"^stopped after \d+ of \d+ volumes.*; what is finished is kept; to go on: python ",
        said,
        re.MULTILINE,
    )
    assert "Traceback" not in said
    in_time(lambda: gone(below), 10, "workers live on")
    assert len(light.records("stopped").costs) >= 2


@pytest.mark.slow
def test_workers_of_a_killed_run_are_gone_and_it_continues(light):
    run = light.start("killed", "--workers", "2", attacks=SLOW)
    light.wait_for_rows("killed", 2)
    below = workers_of(run.pid)
    assert len(below) >= 2
    run.kill()
    run.wait()
    in_time(lambda: gone(below), 10, "workers live on")
    assert light("killed", attacks=SLOW) == 0
    assert light("serial", attacks=SLOW) == 0
    light.assert_same("serial", "killed")


@pytest.mark.slow
def test_killed_workers_change_no_table(light):
    """Every worker that shows up is killed once while the run goes on."""
    assert light("serial", attacks=SLOW) == 0
    run = light.start("shot", "--workers", "2", attacks=SLOW)
    light.wait_for_rows("shot", 1)
    shot = 0
    while run.poll() is None and shot < 6:
        time.sleep(0.5)
        for worker in workers_of(run.pid)[-1:]:
            os.kill(worker.pid, signal.SIGKILL)
            shot += 1
    said, _ = run.communicate(timeout=120)
    while run.returncode not in (0, 2):
        run = light.start("shot", "--workers", "2", attacks=SLOW)
        said, _ = run.communicate(timeout=120)
    assert shot >= 3
    assert "Traceback" not in said
    light.assert_same("serial", "shot")
