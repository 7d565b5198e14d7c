"""Jobs on workers that die, refuse, come late or never: a crew in this process plays all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from robustvox.benchmark.harness import cluster
from robustvox.benchmark.harness.cluster import Dispatcher, Tally
from robustvox.benchmark.harness.compute import Failure
from robustvox.benchmark.harness.crews import WorkerLostError
from robustvox.benchmark.harness.faults import Kind
from robustvox.benchmark.harness.jobs import Assignment, Computed, JobKey, JobSpec, Refused, greet
from robustvox.benchmark.harness.preflight import Answer, Place
from robustvox.benchmark.specs.spec import UnfinishedError

RUN = Answer("0.1.0", "ab", (("torch", "2.6.0"),), "c1", "cd", (), (), (), Place("cpu", "none", 1))


class StageCrew:
    """Workers that do what a test tells them.

    Args:
        answers: per worker what it has, or how its greeting ends.
        act: what a job on a worker comes to: a value, an exception, or None for a job that stays under way.
    """

    where = "the stage"
    many = 1

    def __init__(self, answers: dict[str, Any], act: Callable[[str, str], Any] | None = None) -> None:
        self.answers, self.act = answers, act or (lambda *_: Computed(()))
        self.under_way: dict[Future[Any], tuple[str, str]] = {}
        self.log: list[tuple[str, str, int]] = []  # worker, case, jobs under way before
        self.replaced: list[str] = []

    def workers(self) -> list[str]:
        return list(self.answers)

    def submit(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if function is greet:
            settle(future, self.answers[worker])
            return future
        (spec,) = arguments
        assert isinstance(spec, JobSpec)
        self.log.append((worker, spec.key.case, len(self.under_way)))
        value = self.act(worker, spec.key.case)
        if value is None:
            self.under_way[future] = (worker, spec.key.case)
        else:
            settle(future, value)
        return future

    def end(self, future: Future[Any], value: Any) -> None:
        del self.under_way[future]
        settle(future, value)

    def leave(self, worker: str) -> None:
        del self.answers[worker]
        for future in [f for f, (who, _) in self.under_way.items() if who == worker]:
            self.end(future, WorkerLostError("gone"))

    def replace(self, worker: str) -> None:
        self.replaced.append(worker)

    def close(self) -> None: ...


def settle(future: Future[Any], value: Any) -> None:
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cluster, "_TICK_S", 0.01)


def dispatch(crew: StageCrew, cases: str, wait_s: float = 0.0):
    """A dispatcher of one job per letter, what it tells, and its tally."""
    told: list[str] = []
    tally = Tally(len(cases))
    jobs = ((case, JobKey(case, None, "gn", (("unet", "ab"),), None)) for case in cases)
    dispatcher = Dispatcher(
        crew, Assignment(None, None), RUN, jobs, tally=tally, wait_s=wait_s, tell=told.append  # type: ignore[arg-type]
    )  # fmt: skip
    return dispatcher, told, tally


def results(dispatcher: Dispatcher) -> dict[str, Any]:
    return {result.item: result for result in dispatcher.results() if result is not None}


def test_every_job_comes_back_once():
    crew = StageCrew({"w1": RUN, "w2": RUN})
    dispatcher, told, tally = dispatch(crew, "abcdefgh")
    assert sorted(results(dispatcher)) == list("abcdefgh")
    assert sorted(case for _, case, _ in crew.log) == list("abcdefgh")
    assert (tally.done, tally.lost, told) == (8, 0, [])


def test_at_most_twice_as_many_jobs_under_way_as_workers():
    crew = StageCrew({"w1": RUN, "w2": RUN}, lambda *_: None)
    dispatcher, _, tally = dispatch(crew, "abcdefgh")
    seen = []
    steps = dispatcher.results()
    while tally.done < 8:
        found = next(steps)
        if found is None:
            seen.append((len(crew.under_way), tally.running, tally.waiting))
            if crew.under_way:
                crew.end(next(iter(crew.under_way)), Computed(()))
    assert max(count for count, _, _ in seen) == 4 == max(before + 1 for _, _, before in crew.log)
    assert all(running <= 2 and running + waiting <= 8 for _, running, waiting in seen)


def test_a_dead_worker_costs_its_job_a_retry_elsewhere():
    deaths = iter([WorkerLostError("killed by SIGKILL")])
    crew = StageCrew(
        {"w1": RUN, "w2": RUN}, lambda _, case: next(deaths, Computed(())) if case == "c" else Computed(())
    )
    dispatcher, told, tally = dispatch(crew, "abcdef")
    assert sorted(results(dispatcher)) == list("abcdef")
    first, second = [worker for worker, case, _ in crew.log if case == "c"]
    assert first != second
    assert tally.lost == 1
    assert len(told) == 1
    assert "c, gn: its worker was lost: killed by SIGKILL" in told[0]


@pytest.mark.parametrize("unlucky", ["w1", "w2"])
def test_the_only_job_that_is_left_goes_to_the_other_worker(unlucky):
    crew = StageCrew(
        {"w1": RUN, "w2": RUN},
        lambda worker, _: WorkerLostError("killed") if worker == unlucky else Computed(()),
    )
    dispatcher, _, _ = dispatch(crew, "abcd")
    assert sorted(results(dispatcher)) == list("abcd")


def test_a_job_that_always_kills_its_worker_is_tried_alone_and_given_up():
    def act(_: str, case: str) -> Any:
        return WorkerLostError("killed by SIGKILL") if case == "c" else Computed(())

    crew = StageCrew({"w1": RUN, "w2": RUN}, act)
    dispatcher, _, tally = dispatch(crew, "abcdef")
    found = results(dispatcher)
    assert [case for case, result in found.items() if result.given_up] == ["c"]
    (failure,) = found["c"].computed.found
    assert failure.reason == (
        "lost 3 times, the last time while nothing else ran, so it is the suspect: its worker was lost: killed by SIGKILL"
    )
    tries = [(at, before) for at, (_, case, before) in enumerate(crew.log) if case == "c"]
    assert len(tries) == 3
    assert tries[-1] == (len(crew.log) - 1, 0)  # last of all, and alone
    assert (tally.done, tally.lost) == (6, 3)


def test_what_waited_behind_the_culprit_is_no_suspect():
    crew = StageCrew({"w1": RUN}, lambda *_: None)
    dispatcher, _, tally = dispatch(crew, "ab", wait_s=5.0)
    steps = dispatcher.results()
    for name in ("w2", "w3", "w4"):
        while len(crew.under_way) < 2:
            next(steps)
        crew.leave(next(iter(crew.answers)))
        crew.answers[name] = RUN
    while len(crew.under_way) < 1:
        next(steps)
    # One of the two has cost three workers by now and the other none, or each of them fewer: never both all.
    assert tally.lost == 3
    done = {}
    for result in steps:
        if result is not None:
            done[result.item] = result
        for future in list(crew.under_way):
            crew.end(future, Computed(()))
    assert sorted(done) == ["a", "b"]
    assert not any(result.given_up for result in done.values() if result.item == "b")


def test_a_worker_of_another_version_gets_no_jobs():
    other = replace(RUN, source="ef")
    crew = StageCrew({"w1": other, "w2": RUN})
    dispatcher, told, _ = dispatch(crew, "abcd")
    assert sorted(results(dispatcher)) == list("abcd")
    assert {worker for worker, _, _ in crew.log} == {"w2"}
    assert told == [
        "w1 gets no jobs: expected robustvox 0.1.0 with source ab as in this run, found ef; install the same there"
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Refused("it cannot do what was asked: no module mine"), "no module mine"),
        (replace(RUN, problem="the case c1 cannot be read here"), "c1 cannot be read"),
        (replace(RUN, case_sha256="00"), "the case c1 with sha256 cd"),
        (replace(RUN, models=(("unet", "ab"),)), "the models"),
        (ModuleNotFoundError("No module named 'robustvox'"), "No module named 'robustvox'"),
    ],
)
def test_a_run_without_a_worker_that_may_compute_says_why(answer, reason):
    dispatcher, told, _ = dispatch(StageCrew({"w1": answer}), "ab")
    with pytest.raises(UnfinishedError, match="expected a worker of the stage within 0 s") as raised:
        results(dispatcher)
    assert reason in str(raised.value)
    assert reason in told[0]
    assert reason in told[1]  # while it waits


def test_a_process_that_was_swapped_for_another_version_refuses_its_job():
    """It answered well, was started again with other code, and says so when its first job comes."""
    crew = StageCrew(
        {"w1": RUN, "w2": RUN}, lambda worker, _: Refused("other") if worker == "w1" else Computed(())
    )
    dispatcher, told, tally = dispatch(crew, "abcd")
    assert sorted(results(dispatcher)) == list("abcd")
    assert tally.lost == 0
    assert told == ["w1 gets no jobs: other"]


def test_no_worker_is_said_and_waited_for():
    crew = StageCrew({})
    dispatcher, told, _ = dispatch(crew, "ab", wait_s=0.2)
    started = time.monotonic()
    with pytest.raises(UnfinishedError, match="found none: there is none; start some or raise --wait"):
        results(dispatcher)
    assert 0.2 <= time.monotonic() - started < 5
    assert told == ["waiting up to 0 s for a worker of the stage: there is none"]


def test_a_worker_that_comes_late_gets_jobs():
    crew = StageCrew({})
    dispatcher, _, tally = dispatch(crew, "ab", wait_s=5.0)
    steps = dispatcher.results()
    for _ in range(3):
        next(steps)
    crew.answers["w1"] = RUN
    assert sorted(result.item for result in steps if result is not None) == ["a", "b"]
    assert tally.workers == 1


def test_a_worker_that_never_lives_to_answer_is_left_alone():
    dispatcher, told, _ = dispatch(StageCrew({"w1": WorkerLostError("killed by SIGSEGV")}), "ab")
    with pytest.raises(UnfinishedError, match="died 5 times before it answered: killed by SIGSEGV"):
        results(dispatcher)
    assert len(told) == 2


def test_too_little_memory_is_tried_elsewhere_then_alone_then_a_row():
    short = Computed((Failure("CUDA out of memory", Kind.MEMORY),))
    crew = StageCrew({"w1": RUN, "w2": RUN}, lambda _, case: short if case == "b" else Computed(()))
    dispatcher, _, _ = dispatch(crew, "abcd")
    found = results(dispatcher)
    assert found["b"].given_up
    assert found["b"].computed.found[0].reason == "CUDA out of memory"
    tries = [(worker, before) for worker, case, before in crew.log if case == "b"]
    assert len(tries) == 3
    assert tries[0][0] != tries[1][0]
    assert tries[2][1] == 0
    assert crew.replaced == []


def test_a_process_with_a_broken_device_is_replaced():
    broken = Computed((Failure("CUDA error: device-side assert triggered", Kind.DEVICE),))
    once = iter([broken])
    crew = StageCrew({"w1": RUN}, lambda _, case: next(once, Computed(())) if case == "b" else Computed(()))
    dispatcher, _, tally = dispatch(crew, "abc")
    assert not any(result.given_up for result in results(dispatcher).values())
    assert crew.replaced == ["w1"]
    assert tally.lost == 1


def test_what_arrived_before_the_end_is_not_lost():
    crew = StageCrew({"w1": RUN, "w2": RUN}, lambda *_: None)
    dispatcher, _, _ = dispatch(crew, "abcd")
    steps = dispatcher.results()
    while len(crew.under_way) < 4:
        next(steps)
    first, second, third, _ = crew.under_way
    crew.end(first, Computed(()))
    crew.end(second, WorkerLostError("gone"))
    crew.end(third, Computed(()))
    assert [result.item for result in dispatcher.finished()] == ["a", "c"]


def test_nobody_is_asked_for_when_nothing_is_left_to_compute():
    crew = StageCrew({})
    tally = Tally(3)
    dispatcher = Dispatcher(
        crew, Assignment(None, None), RUN, iter([None, None, None]), tally=tally, wait_s=0, tell=pytest.fail  # type: ignore[arg-type]
    )  # fmt: skip
    assert list(dispatcher.results()) == [None] * 4
