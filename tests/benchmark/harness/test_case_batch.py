"""Cases attacked together, and scored beside the attack, leave the records of a run that does one after another."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from robustvox.attacks import PGD, VAFA
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.harness import desk as desks
from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.harness.cluster import Tally
from robustvox.benchmark.harness.desk import Desk, OwnDesk, SideDesk
from robustvox.benchmark.harness.execute import Event, Status, execute
from robustvox.benchmark.harness.faults import ERRORS
from robustvox.benchmark.harness.saving import Saver
from robustvox.benchmark.harness.scoring import judge
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.records import RecordStore, load_records
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import UnfinishedError
from robustvox.datasets import CaseError, IntensityWindow, Volume
from robustvox.models import SlidingWindow

ROI = (12, 12, 10)
SHAPES = {"a": (9, 12, 7), "b": (12, 8, 10), "large": (16, 12, 10), "c": (10, 11, 9), "d": (12, 8, 10)}


def volume(case: str) -> Volume:
    g = np.random.default_rng(sum(map(ord, case)))
    image = g.random((1, *SHAPES[case])).astype(np.float32)
    label = np.digitize(image[0], (0.6, 0.9)).astype(np.int16)
    return Volume(case, image, label, (1.0, 1.0, 2.0), np.eye(4), IntensityWindow(0.0, 1.0))


@dataclass(frozen=True)
class Few:
    """Small volumes, of which one cannot be read."""

    name: str = "few"
    class_names: tuple[str, ...] = ("background", "one", "two")
    in_channels: int = 1
    roi_size: tuple[int, ...] = ROI
    nsd_tolerance_mm: float = 1.0
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def load(self, case_id: str) -> Volume:
        if case_id == "bad":
            raise CaseError(case_id, "a file", "none", "look for it")
        return volume(case_id)


class Counting(nn.Module):
    """A network that notes how many samples come at once, and may refuse them."""

    def __init__(self, *, most: int = 99, refused: str = "") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = (
                nn.Conv3d(1, 6, 3, padding=1),
                nn.InstanceNorm3d(6),
                nn.GELU(),
                nn.Conv3d(6, 3, 3, padding=1),
            )
        self.body, self.most, self.seen = nn.Sequential(*layers), most, list[int]()
        self.refused = torch.from_numpy(volume(refused).image).sum() if refused else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        near = () if self.refused is None else images.detach().flatten(1).sum(1) - self.refused
        if images.requires_grad and any(abs(float(one)) < 5 for one in near):
            raise ValueError("expected another case, got this one")
        return self.body(images)


def plan_of(network: nn.Module, cases: Sequence[str] = (*SHAPES, "bad")) -> Plan:
    target = NamedModel("net", "12", SlidingWindow(network.eval(), ROI))
    other = NamedModel("other", "34", SlidingWindow(Counting().eval(), ROI))
    attacks = [
        NamedAttack("pgd", PGD(steps=2, alpha=8 / 255)),
        NamedAttack("vafa", VAFA(steps=2, block_size=4)),
    ]
    return Plan(
        Few(), list(cases), [target], [target, other], attacks, PROTOCOLS["robustvox-1"], white_box=False
    )


def run(out: Path, plan: Plan, case_batch: int | str, desk: Desk | None = None, **options) -> list[Event]:
    bench = Bench(plan, case_batch=case_batch, desk=desk, **options)
    with RecordStore(out) as store:
        return list(execute(bench, store, "p"))


def same(found: Path, wanted: Path) -> None:
    """The same numbers to rounding, in records of the same units."""
    for frame in ("scores", "costs", "failures"):
        one, two = (
            getattr(load_records(out), frame).drop(columns="seconds", errors="ignore")
            for out in (found, wanted)
        )
        keys = [column for column in ("unit", "class_id") if column in one]
        one, two = (table.sort_values(keys).reset_index(drop=True) for table in (one, two))
        pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=0.01 if frame == "scores" else 1e-5)


def names(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(e.job.case, e.job.attack.spec if e.job.attack else "clean") for e in events]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    run(out, plan_of(Counting()), 1)
    return out


@pytest.fixture(scope="module")
def side() -> Iterator[SideDesk]:
    desk = SideDesk(2)
    yield desk
    desk.close()


@pytest.mark.parametrize("case_batch", [2, 16])
def test_records_are_those_of_cases_alone(case_batch: int, alone: Path, tmp_path: Path) -> None:
    network = Counting()
    events = run(tmp_path, plan_of(network), case_batch)
    same(tmp_path, alone)
    # pgd takes shapes together, vafa the two that are alike; neither the large one.
    assert max(network.seen) == min(case_batch, 4)
    assert len(set(names(events))) == len(events) == 3 * len(plan_of(network).cases)
    assert [e.status for e in events if e.job.case == "bad"] == [Status.FAILED] * 3
    if case_batch == 2:
        assert names(events) == names(run(tmp_path / "twice", plan_of(Counting()), case_batch))


def test_a_run_goes_on_with_what_is_missing(alone: Path, tmp_path: Path) -> None:
    run(tmp_path, plan_of(Counting(), ["a", "c"]), 1)
    network = Counting()
    events = run(tmp_path, plan_of(network), 16)
    assert {
        name for name, event in zip(names(events), events, strict=True) if event.status is Status.RECORDED
    } == {(case, attack) for case in "ac" for attack in ("clean", "pgd", "vafa")}
    assert max(network.seen) == 2
    same(tmp_path, alone)
    again = Counting()
    assert {e.status for e in run(tmp_path, plan_of(again), 16)} == {Status.RECORDED, Status.FAILED}
    assert again.seen == []


def test_a_case_that_fails_in_a_batch_fails_alone(alone: Path, tmp_path: Path) -> None:
    events = run(tmp_path, plan_of(Counting(refused="c"), list(SHAPES)), 16)
    failed = [event for event in events if event.failed]
    assert sorted(names(failed)) == [("c", "pgd"), ("c", "vafa")]
    assert {event.error for event in failed} == {"expected another case, got this one"}
    found, wanted = (load_records(out).costs.set_index("unit")["l2"] for out in (tmp_path, alone))
    assert len(found) == len(wanted) - 4  # two attacks on two targets
    np.testing.assert_allclose(found, wanted[found.index], rtol=1e-4)


def test_a_batch_without_memory_is_halved_and_stays_so(alone: Path, tmp_path: Path) -> None:
    network = Counting(most=2)
    run(tmp_path, plan_of(network), 16)
    same(tmp_path, alone)
    assert network.seen.count(4) == 1
    assert max(one for one in network.seen if one != 4) == 2


def test_a_single_case_without_memory_is_a_failed_row(tmp_path: Path) -> None:
    events = run(tmp_path, plan_of(Counting(most=0), ["a", "b"]), 16)
    assert all(event.failed and "out of memory" in event.error for event in events)


def test_a_broken_device_ends_the_run(tmp_path: Path) -> None:
    class Breaks(Counting):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.requires_grad:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().forward(images)

    with pytest.raises(UnfinishedError, match="the device of this process is broken since a"):
        run(tmp_path, plan_of(Breaks(), ["a", "b"]), 16)
    assert len(load_records(tmp_path).costs) == 4  # the clean images of both, on both targets


def test_auto_is_one_case_on_a_cpu(tmp_path: Path) -> None:
    network = Counting()
    events = run(tmp_path, plan_of(network, ["a", "b"]), "auto")
    assert max(network.seen) == 1
    assert names(events)[:3] == [("a", "clean"), ("a", "pgd"), ("a", "vafa")]


@pytest.mark.parametrize("case_batch", [1, 16])
def test_scores_beside_the_attack_are_the_same(
    case_batch: int, alone: Path, side: SideDesk, tmp_path: Path
) -> None:
    plan, seen = plan_of(Counting()), []
    saver = Saver(plan, tmp_path / "volumes", "unit")
    events = run(tmp_path / "beside", plan, case_batch, side, watch=seen.append, save=saver)
    same(tmp_path / "beside", alone)
    if case_batch > 1:
        assert names(events) == names(run(tmp_path / "here", plan_of(Counting()), case_batch, OwnDesk()))
    assert [(one.job.case, one.target.name) for one in seen] == [
        (event.job.case, target.name) for event in events if not event.failed for target in event.job.targets
    ]
    assert len(list((tmp_path / "volumes").rglob("*.nii.gz"))) == 2 * len(SHAPES)


def spoiled(case, prediction, unharmed, class_names):
    """In place of the scoring: fails for one case in code that nobody worded."""
    if case.volume.id == "b":
        raise KeyError("liver")
    return judge(case, prediction, unharmed, class_names)


def test_an_error_beside_is_a_failed_row_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, side: SideDesk, tmp_path: Path
) -> None:
    monkeypatch.setattr("robustvox.benchmark.harness.bench.judge", spoiled)
    events = run(tmp_path, plan_of(Counting(), ["a", "b"]), 1, side)
    assert {e.job.case for e in events if e.failed} == {"b"}
    assert {e.error for e in events if e.failed} == {"KeyError: 'liver'"}
    assert all(e.traced for e in events if e.failed)
    assert "in spoiled" in (tmp_path / ERRORS).read_text()


def test_what_a_dead_process_owed_is_done_here(alone: Path, tmp_path: Path) -> None:
    desk = SideDesk(1)
    try:
        bench, killed = Bench(plan_of(Counting()), case_batch=16, desk=desk), False
        with RecordStore(tmp_path) as store:
            for _ in execute(bench, store, "p"):
                (lane,) = desk._crew._lanes.values()
                if not killed and lane.pid is not None:
                    os.kill(lane.pid, signal.SIGKILL)
                    killed = True
        assert killed
        same(tmp_path, alone)
    finally:
        desk.close()


def test_an_interruption_keeps_what_is_scored(tmp_path: Path) -> None:
    class Interrupted(Counting):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.requires_grad and len(self.seen) > 12:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plan_of(Interrupted(), ["a", "b"]), 1)
    assert len(load_records(tmp_path).costs) > 0


def test_the_desk_is_full_when_much_waits(monkeypatch: pytest.MonkeyPatch, side: SideDesk) -> None:
    case = Bench(plan_of(Counting())).case("a")
    monkeypatch.setattr(desks, "_WAITING_BYTES", 10)
    later = side.submit(case, nap, np.zeros(100))
    assert side.full
    assert later.result() == 100
    assert not side.full


def nap(_case, array: np.ndarray) -> int:
    import time

    time.sleep(0.2)
    return len(array)


def test_the_tally_says_what_is_in_work(tmp_path: Path) -> None:
    plan, tally, said = plan_of(Counting(), ["a", "b"]), Tally(0), []
    with RecordStore(tmp_path) as store:
        for _ in execute(Bench(plan, case_batch=16), store, "p", tally=tally):
            said.append(tally.doing())
    assert "a and 1 more: pgd on net, step 2 of 2" in said
    assert said[-1] == "b: vafa on net, step 2 of 2"
    assert (tally.done, tally.running, tally.jobs) == (6, 0, 6)
