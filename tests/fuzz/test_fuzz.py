"""Files that lie, in every format the suite reads: none ends in a traceback, hangs, runs, or is read wrongly.

The default run takes a few hundred inputs through the doors that the commands use. ``-m slow`` takes thousands, the
formats whose reading takes a run, and a sample through a process of its own; so does ``python -m tests.fuzz``, which
prints what became of all of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .__main__ import table
from .inputs import make_input
from .judge import BAD, CONTROL, Reader, warm
from .samples import Command, Sample, samples

QUICK = 8
"""Inputs per format by default."""

THOROUGH = 60


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> list[Sample]:
    root = tmp_path_factory.mktemp("samples")
    found = samples(root, thorough=False)
    for sample in found:
        warm(sample, root)
    return found


def judged(chosen: list[Sample], seeds: range) -> str:
    """What is wrong, with the table of all; nothing where nothing is."""
    with Reader(chosen) as reader:
        outcomes = [reader.judge(sample, seed) for seed in seeds for sample in chosen]
    bad = [outcome for outcome in outcomes if outcome.kind in BAD]
    return "\n".join([*map(str, bad), table(outcomes)]) if bad else ""


def test_a_few_hundred_inputs(quick):
    if found := judged(quick, range(QUICK)):
        pytest.fail(found, pytrace=False)


@pytest.mark.slow
def test_thousands_of_inputs(tmp_path):
    chosen = samples(tmp_path)
    for sample in chosen:
        warm(sample, tmp_path)
    if found := judged(chosen, range(1000, 1000 + THOROUGH)):
        pytest.fail(found, pytrace=False)


def drawn(found: list[Sample], number: int) -> Iterator[tuple[Sample, int]]:
    rng = random.Random(0)
    typed = [sample for sample in found if isinstance(sample.call, Command)]
    return ((rng.choice(typed), rng.randrange(10**6)) for _ in range(number))


def through_the_command_line(sample: Sample, seed: int, folder: Path) -> None:
    how = make_input(sample, seed, folder)
    assert isinstance(sample.call, Command)
    run = subprocess.run(
        [sys.executable, "-m", "robustvox.benchmark", *sample.call.typed(folder)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    told = f"{sample.name}, seed {seed}, {how}: {run.returncode} {run.stderr[-1000:]}"
    assert run.returncode in (0, 1, 2), told
    assert "Traceback" not in run.stdout + run.stderr, told
    assert not any(code in run.stdout + run.stderr for code in CONTROL), told
    if run.returncode == 2:
        assert sum(line.startswith("error: ") for line in run.stderr.splitlines()) == 1, told


def test_one_through_the_command_line(quick, tmp_path):
    records = next(sample for sample in quick if sample.name == "records, cite")
    through_the_command_line(records, 3, tmp_path / "here")


@pytest.mark.slow
def test_a_sample_through_the_command_line(quick, tmp_path):
    for number, (sample, seed) in enumerate(drawn(quick, 40)):
        (tmp_path / str(number)).mkdir()
        through_the_command_line(sample, seed, tmp_path / str(number) / "here")
