"""Batches that ran out of memory: nobody is tried at that size again, and a case alone gets what others hold."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from robustvox.benchmark.harness import shortage
from robustvox.benchmark.harness.compute import Failure
from robustvox.benchmark.harness.faults import Kind
from robustvox.benchmark.harness.shortage import Room
from robustvox.models import window_memory


@dataclass(frozen=True)
class Model:
    key: tuple[str, str] = ("net", "00")
    predictor: None = None


@dataclass(frozen=True)
class Job:
    number: int
    surrogate: Model = Model()


class Device:
    """Holds ``most`` jobs."""

    def __init__(self, most: int) -> None:
        self.most, self.tried = most, []

    def alone(self, job):
        return self.together([job])[0]

    def together(self, jobs):
        self.tried.append(len(jobs))
        if len(jobs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [job.number for job in jobs]


def room_of(device, name="cpu"):
    return Room(name, device.alone, device.together)


def craft(room, count, start=0):
    return room.craft([Job(start + at) for at in range(count)])


def test_what_was_learned_holds_for_the_other_half_and_for_later_batches():
    device = Device(2)
    room = room_of(device)
    assert craft(room, 16) == list(range(16))
    assert device.tried == [16, 8, 4, *[2] * 8]
    device.tried.clear()
    assert craft(room, 5, 100) == [100, 101, 102, 103, 104]
    assert device.tried == [2, 2, 1]
    assert room.most([Job(0)], 16) == 2
    assert room.most([Job(0)], 1) == 1
    assert room.most([Job(0, Model(("other", "00")))], 16) == 16


class Hoard:
    """A graph of another network, without which one job fits."""

    def __init__(self, device):
        self.device, self.there = device, True

    def held_bytes(self, device):
        return 0

    def drop(self, device=None):
        had, self.there, self.device.most = self.there, False, 1
        return had


def test_a_case_alone_gets_what_others_hold():
    device = Device(0)
    hoard = Hoard(device)
    window_memory.register(hoard)
    assert craft(room_of(device), 1) == [0]
    assert device.tried == [1, 1]
    assert not hoard.there


@pytest.mark.parametrize("count", [1, 2])
def test_where_nobody_holds_anything_it_fails_once(count):
    device = Device(0)
    found = craft(room_of(device), count)
    assert all(isinstance(failure, Failure) and "out of memory" in failure.reason for failure in found)
    assert device.tried == [*([count] if count > 1 else []), *[1] * count]


def test_a_card_that_cannot_even_give_back_is_the_reason(monkeypatch):
    """What a full card says may be what a broken one says."""

    def broken(_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(shortage, "release", broken)
    device = Device(1)
    found = craft(room_of(device, "cuda"), 4)
    assert [(failure.kind, failure.reason) for failure in found] == [
        (Kind.DEVICE, "CUDA error: device-side assert triggered")
    ] * 4
    assert device.tried == [4]
