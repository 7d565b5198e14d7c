"""The time left follows from the passes of the attacks, and moves inside one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustvox.attacks import FGSM, PGD, StepInfo
from robustvox.benchmark.craft.meter import StepWatch
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.harness.outlook import Outlook, past_seconds
from robustvox.benchmark.harness.preflight import place_of
from robustvox.benchmark.plan.build import build_plan
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.specs.crossing import Computing, Crossing
from robustvox.benchmark.specs.durations import duration
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


def test_a_measured_forward_tells_before_the_first_step(plan: Plan) -> None:
    clock = Clock()
    outlook, jobs = Outlook(plan, clock), list(plan.jobs())
    model = plan.surrogates[0]
    outlook.finish(jobs[0], computed=True)
    outlook.tally.forwards = lambda: {model.key: 2.0}
    # Of two cases: FGSM's 2 and PGD's 198 passes, half of them backward, and a forward a score; one clean one is done.
    seconds = 2 * (1.5 * 2.0 * (2 + 198) + 3 * 2.0) - 2.0
    assert outlook.left() == pytest.approx(seconds)
    assert f"about {duration(seconds)} more" in outlook.warning()
    outlook.tally.attack, outlook.tally.share = lambda: "pgd", lambda: 0.25
    clock.now, outlook.tally.doing = 100.0, lambda: "val_000: pgd"
    done = 2.0 + 0.25 * 1.5 * 2.0 * 198  # from here on its own pace counts, whatever was expected
    assert outlook.left() == pytest.approx(100.0 * (seconds + 2.0 - done) / done)


def test_models_weigh_what_they_cost_and_records_come_first() -> None:
    small, large = (NamedModel(name, name, torch.nn.Conv3d(1, 8, 1)) for name in ("small", "large"))
    attack = NamedAttack("fgsm", FGSM())
    plan = Plan(open_dataset("phantom"), ["val_000"], [small, large], [], [attack], PROTOCOLS["robustvox-1"])
    outlook = Outlook(plan, Clock(), past={(large.key, "fgsm"): 500.0})
    assert outlook.left() is None  # nothing is known of the small one
    outlook.tally.forwards = lambda: {small.key: 1.0}
    # Clean and attacked images of both, a forward of each at the only pace that is known; FGSM of 2 passes on the small.
    assert outlook.left() == pytest.approx(4.0 + 1.5 * 2 + 500.0)
    assert outlook.warning() == ""
    outlook.tally.workers = 2
    assert outlook.left() == pytest.approx((4.0 + 1.5 * 2 + 500.0) / 2)


def test_what_took_so_long_here_before(toy) -> None:
    assert toy("--attack", "gn", "--attack", "fgsm") == 0
    crossing = Crossing(
        models=("unet",), checkpoints=(toy.checkpoints["unet"],), dataset=str(toy.folder), split="all",
        attacks=("gn", "fgsm:eps=1/255"), cases="all",
    )  # fmt: skip
    plan = build_plan(crossing, Computing(), toy.root / "results")
    root = toy.root / "results" / "toy" / "records"
    costs = load_records(root).costs
    here = place_of(plan.device)
    with RecordStore(root) as store:
        (found,) = past_seconds(store, plan, here).items()  # FGSM of another eps is another attack
        assert found[0] == (plan.surrogates[0].key, plan.attacks[0].spec)
        assert found[1] == pytest.approx(costs[costs["attack"] == plan.attacks[0].spec]["seconds"].median())
        assert past_seconds(store, plan, replace(here, accelerator="another card")) == {}


def test_windows_one_after_another_are_parts_of_one_attack() -> None:
    watch, shares = StepWatch(parts=2, most=42), []
    for _ in range(2):
        for step in range(5):
            value = torch.zeros(1)
            watch(StepInfo(step=step, steps=4, loss=value, metric=value, best_step=value.long()))
            shares.append(watch.share)
    assert shares == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.875, 1.0])
    assert str(watch) == "step 4 of 4, window 2 of 2"


def test_an_attack_of_few_steps_and_many_passes_is_told_by_its_passes() -> None:
    watch = StepWatch(most=1020)
    watch.passed = lambda: 255
    assert watch.share == 0.25
    assert str(watch) == "pass 255 of at most 1020"
