"""A real scheduler and two workers on the loopback address, killed while they compute."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

SLOW_ENOUGH = ("Nudge:pause=0.3", "Nudge:amount=2/255,pause=0.3", "Nudge:amount=3/255,pause=0.3")


@pytest.mark.slow
def test_a_worker_dies_and_then_the_scheduler(light, dask_processes, capfd):
    """One cluster for both, because starting one takes longer than everything else here."""
    dask_processes.add_worker("one")
    dask_processes.add_worker("two")
    scheduler = ("--scheduler", dask_processes.address)
    assert light("serial", attacks=SLOW_ENOUGH) == 0

    def kill_after(out: str, rows: int, name: str) -> threading.Thread:
        def wait_and_kill() -> None:
            light.wait_for_rows(out, rows)
            dask_processes.kill(name)

        thread = threading.Thread(target=wait_and_kill)
        thread.start()
        return thread

    killer = kill_after("worker", 2, "one")
    assert light("worker", *scheduler, attacks=SLOW_ENOUGH) == 0
    killer.join()
    light.assert_same("serial", "worker")
    assert len(light.records("worker").failures) == 0

    capfd.readouterr()
    killer = kill_after("scheduler", 2, "scheduler")
    assert light("scheduler", *scheduler, attacks=SLOW_ENOUGH) == 3
    killer.join()
    said = capfd.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert f"expected the scheduler at {dask_processes.address} to answer" in line
    assert "the same command continues" in line
    kept = len(light.records("scheduler").costs)
    assert kept >= 2
    assert light("scheduler", attacks=SLOW_ENOUGH) == 0
    assert f"{kept} already recorded" in capfd.readouterr().out
    light.assert_same("serial", "scheduler")


def test_a_scheduler_without_workers(light, dask_processes, capfd):
    assert light("none", "--scheduler", dask_processes.address, "--wait", "1") == 3
    said = capfd.readouterr().err
    assert "waiting up to 1 s for a worker of the scheduler at tcp://127.0.0.1" in said
    assert "expected a worker of the scheduler" in said
    assert "found none: there is none; start some or raise --wait" in said
    assert len(light.records("none").failures) == 0  # nothing failed: nothing was tried


@pytest.mark.slow
def test_workers_without_the_module_or_without_the_data(light, dask_processes, capfd, tmp_path):
    bare = {k: v for k, v in light.environment.items() if k != "PYTHONPATH"}
    rest = [p for p in light.environment["PYTHONPATH"].split(":") if p != str(light.root)]
    dask_processes.add_worker("no-module", environment={**bare, "PYTHONPATH": ":".join(rest)})
    dask_processes.add_worker("good")
    assert light("serial") == 0
    assert light("cluster", "--scheduler", dask_processes.address, "--wait", "60") == 0
    light.assert_same("serial", "cluster")
    said = capfd.readouterr().err
    assert "gets no jobs: it cannot do what was asked" in said or "No module named 'light'" in said


@pytest.mark.slow
def test_a_worker_of_another_version_gets_no_jobs(light, dask_processes, capfd):
    """A copy of the package in which one file differs: its numbers might, and nothing would fail."""
    import robustvox.benchmark

    root, copy = Path(robustvox.benchmark.__file__).parents[1], light.root / "other" / "robustvox"
    for top in ("attacks", "benchmark", "datasets", "models"):
        shutil.copytree(root / top, copy / top, ignore=shutil.ignore_patterns("zoo", "__pycache__"))
    (copy / "attacks" / "pgd.py").write_text(
        (root / "attacks" / "pgd.py").read_text() + "\n# another version\n"
    )
    older = f"{copy.parent}{os.pathsep}{light.environment['PYTHONPATH']}"
    dask_processes.add_worker("older", environment={**light.environment, "PYTHONPATH": older})
    dask_processes.add_worker("good")
    assert light("serial") == 0
    assert light("cluster", "--scheduler", dask_processes.address, "--wait", "60") == 0
    light.assert_same("serial", "cluster")
    assert "gets no jobs: expected robustvox" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize("nanny", [True, False])
def test_a_job_that_always_kills_its_worker(light, dask_processes, nanny):
    """Three deaths at most; all other rows are right."""
    for name in ("one", "two", "three", "four"):
        dask_processes.add_worker(name, *(("--nanny",) if nanny else ()))
    assert light("serial", attacks=("Nudge",)) == 0
    attacks = ("Nudge", "Deadly")
    assert light("deadly", "--scheduler", dask_processes.address, attacks=attacks) == 1
    records = light.records("deadly")
    (failure,) = records.failures.to_dict("records")
    assert failure["case"] == "case_001"
    assert failure["attack"].startswith("light:Deadly")
    assert "lost 3 times, the last time while nothing else ran" in failure["error"]
    wanted = light.records("serial").scores
    found = records.scores[records.scores["unit"].isin(wanted["unit"])]
    assert (
        found.sort_values(["unit", "class_id"])["dice"].tolist()
        == wanted.sort_values(["unit", "class_id"])["dice"].tolist()
    )


@pytest.mark.slow
def test_a_memory_limit(light, dask_processes):
    """The nanny ends a worker that takes more than it may; its job is the suspect, the others are rows."""
    for name in ("one", "two"):
        dask_processes.add_worker(name, "--nanny", "--memory-limit", "2GB")
    assert light("greedy", "--scheduler", dask_processes.address, attacks=("Nudge", "Greedy")) == 1
    records = light.records("greedy")
    (failure,) = records.failures.to_dict("records")
    assert (failure["case"], "lost 3 times" in failure["error"]) == ("case_001", True)
    assert len(records.costs) == 3 * 3 - 1
