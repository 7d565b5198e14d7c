"""The time left follows from the passes of the attacks, and moves inside one."""

from __future__ import annotations

import pytest
import torch

from robustvox.attacks import FGSM, PGD
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.harness.outlook import Outlook
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.datasets import open_dataset


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plan() -> Plan:
    model = NamedModel("conv", "", torch.nn.Conv3d(1, 8, 1))
    attacks = [NamedAttack("fgsm", FGSM()), NamedAttack("pgd", PGD(steps=98))]
    return Plan(
        open_dataset("phantom"), ["val_000", "val_001"], [model], [model], attacks, PROTOCOLS["robustvox-1"]
    )


def test_nothing_is_told_before_a_step_and_half_an_attack_counts_half(plan: Plan) -> None:
    clock = Clock()
    outlook, jobs = Outlook(plan, clock), list(plan.jobs())
    passes = 2 * (
        1 + 3 + 199
    )  # clean; FGSM of 2 passes and its score; PGD of 98 steps, 2 beside them, and its score
    assert outlook.left() is None
    clock.now = 1.0
    outlook.finish(jobs[0], computed=True)
    assert outlook.left() is None  # a clean prediction tells nothing about attacks
    outlook.tally.attack, outlook.tally.share = lambda: "pgd", lambda: 0.5
    outlook.tally.doing = lambda: "val_000: pgd"
    clock.now = 100.0
    assert outlook.left() == pytest.approx(100.0 * (passes - 100.0) / 100.0)  # 1 + half of 198
    outlook.finish(jobs[2], computed=True)
    assert outlook.share() == 0.0  # it is over, and counted
    assert outlook.left() == pytest.approx(100.0 * (passes - 200.0) / 200.0)


def test_a_long_run_says_so_once_and_what_is_recorded_takes_no_time(plan: Plan) -> None:
    clock = Clock()
    outlook, jobs = Outlook(plan, clock), list(plan.jobs())
    clock.now = 100.0
    outlook.finish(jobs[1], computed=True)
    assert "this run takes about" in outlook.warning()
    assert outlook.warning() == ""
    again = Outlook(plan, Clock())
    for job in jobs:
        again.finish(job, computed=job is jobs[1])
    assert again.left() == pytest.approx(0.0)
    assert again.warning() == ""
