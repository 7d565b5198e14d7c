"""The ``run`` command: from what was asked to a plan, through the harness, to tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from typing import Any

from rich.console import Console

from ...harness.bench import Bench
from ...harness.cluster import Tally
from ...harness.desk import OwnDesk, SideDesk
from ...harness.execute import Elsewhere, Event, Status, execute
from ...harness.faults import ERRORS, require_folder, storing
from ...harness.outlook import Outlook, past_seconds
from ...harness.preflight import Place, place_of
from ...harness.saving import requested_saver
from ...harness.workers import assign, crew_of
from ...plan.attacks import brief
from ...plan.build import build_plan
from ...plan.changed import changed_code
from ...plan.computing import describe_compute
from ...plan.plan import Job, Plan, describe_plan
from ...records.model_labels import keep_labels
from ...records.outcomes import load_flags
from ...records.provenance import describe
from ...records.reading import Records
from ...records.sources import claim
from ...records.store import RecordStore
from ...report.facts import Run
from ...report.gallery import FirstCase
from ...report.reading import window_lines
from ...report.writing import announce
from ...show.files import write
from ...show.model_labels import relabelled, shown_labels
from ...show.tables.results import both
from ...show.tables.views import uneven
from ...specs.compute import Compute
from ...specs.crossing import Computing
from ...specs.requests import RunRequest
from ...specs.spec import CLEAN
from ..codes import DONE, SOME_FAILED
from ..stopping import stopping
from .console import escape, make_console, progress
from .json_rows import Emit, json_rows
from .labels import labels_of
from .terminal_table import results_table

_BEFORE, _AFTER = (
    "before anything was computed",
    "after the last volume, while tables and report were written",
)
"""Where a run may be stopped but within its attacks."""


def run_benchmark(request: RunRequest, executor: Executor | None = None, *, beside: bool = False) -> int:
    """Do what the request says; 0 when everything is done, 1 when some cases failed.

    Args:
        request: as typed, or made in Python.
        executor: who computes, in place of ``workers`` and ``scheduler`` of the request: any
            ``concurrent.futures.Executor`` whose processes can resolve the request, or a Dask ``Client``, see
            ``docs/clusters.md``. It stays open. ``workers`` then says how many jobs it computes at once, where it does
            not tell.
        beside: whether volumes are scored and written by other processes while a GPU attacks the next. A script that
            asks for it needs ``if __name__ == "__main__":`` around the call, as for ``workers``.

    Raises:
        UsageError: for any name, parameter, path or combination that cannot be.
        UnfinishedError: no worker, no scheduler, or results that cannot be written.
    """
    started, clock = time.time(), time.perf_counter()
    gallery = FirstCase()
    computing, writing = request.computing, request.writing
    require_folder(writing.out)
    with stopping(_BEFORE):
        plan = build_plan(request.crossing, computing, writing.out)
    alone = _alone(computing, executor)
    desk = SideDesk() if beside and alone and not plan.device.startswith("cpu") else OwnDesk()
    # Workers attack the cases they are given one by one.
    compute = computing.compute if alone else replace(computing.compute, case_batch=1)
    with json_rows(writing.json) as emit, closing(desk):
        bench = Bench(
            plan,
            save=requested_saver(writing, plan),
            watch=gallery if writing.report else None,
            case_batch=compute.case_batch,
            desk=desk,
        )
        return _run(request, bench, compute, executor, gallery, (started, clock), emit)


def _alone(computing: Computing, executor: Executor | None) -> bool:
    """Whether this process computes."""
    return executor is None and computing.scheduler is None and computing.workers == 0


def _run(
    request: RunRequest,
    bench: Bench,
    compute: Compute,
    executor: Executor | None,
    gallery: FirstCase,
    began: tuple[float, float],
    emit: Emit,
) -> int:
    """Everything of a run once it is known what is crossed."""
    console, plan = make_console(), bench.plan
    aside = make_console()
    aside.quiet = request.quiet
    out, computing = request.writing.out, request.computing
    started, clock = began
    for line in dict.fromkeys(f"{m.shown}: {note}" for m in plan.models for note in m.notes):
        aside.print(escape(line), style="dim", soft_wrap=True)
    folder = out / plan.dataset.name
    labels = labels_of(plan, out)
    entry = (
        describe()
        | dict(describe_plan(plan))
        | dict(describe_compute(plan, compute, here=_alone(computing, executor)))
    )
    with RecordStore(folder / "records") as store:
        with stopping(_BEFORE), storing(folder):
            store.lock(computing.wait, lambda line: console.print(escape(line), soft_wrap=True))
            claim(out, plan.dataset)
            keep_labels(store.root, labels)
        for line in changed_code(plan, folder / "records"):
            console.print(escape(line), soft_wrap=True)
        provenances = _Provenances(store, {"protocol": plan.protocol.name, **entry}, place_of(plan.device))
        events = _compute(request, bench, store, provenances, executor)
        with stopping(_AFTER), storing(out):
            recorded = write(out)[store.root]
    with stopping(_AFTER):
        for line in window_lines(bench):
            aside.print(escape(line), style="dim", soft_wrap=True)
        records = _print(console, request, plan, events, recorded, emit)
        if request.writing.report:
            announce(
                aside,
                Run(
                    bench=bench,
                    events=events,
                    records=records,
                    environment=entry,
                    provenance=provenances.own,
                    out=out,
                    started=started,
                    seconds=time.perf_counter() - clock,
                    gallery=gallery,
                ),
            )
    for line in plan.refused:
        console.print(f"[red]refused[/red] {escape(line)}", soft_wrap=True)
    return SOME_FAILED if plan.refused or any(event.failed for event in events) else DONE


def _compute(
    request: RunRequest,
    bench: Bench,
    store: RecordStore,
    provenances: _Provenances,
    executor: Executor | None,
) -> list[Event]:
    """Every job of the plan, with progress."""
    plan = bench.plan
    outlook = Outlook(plan, past=past_seconds(store, plan, place_of(plan.device)))
    tally = outlook.tally
    events: list[Event] = []
    with (
        crew_of(request.computing, executor) as crew,
        progress(
            f"{plan.dataset.name}: {len(plan.cases)} cases",
            tally.jobs,
            lambda: str(tally),
            lambda: tally.doing(),
            outlook=outlook,
            quiet=request.quiet,
        ) as bar,
        stopping(lambda: _whereabouts(tally)),
    ):
        elsewhere = None
        if crew is not None:
            elsewhere = Elsewhere(
                crew=crew,
                assignment=assign(request, plan.dataset),
                wait_s=request.computing.wait,
                tell=lambda line: bar.console.print(escape(line), soft_wrap=True),
                provenance_at=provenances.at,
            )
        for event in execute(
            bench,
            store,
            provenances.own,
            recompute=request.writing.recompute,
            elsewhere=elsewhere,
            tally=tally,
        ):
            events.append(event)
            outlook.finish(event.job, computed=event.status is not Status.RECORDED)
            bar.update(bar.task_ids[0], advance=1, description=escape(_describe(plan, event.job)))
            if request.verbose:
                line = f"{event.status}: {_describe(plan, event.job)}"
                bar.console.print(escape(line), style="dim", soft_wrap=True)
    return events


def _whereabouts(tally: Tally) -> str:
    """For who stops a run."""
    now = tally.doing()
    return f"after {tally.done} of {tally.jobs} volumes" + (f", in {now}" if now else "")


class _Provenances:
    """The provenance of rows, by where they were computed; each is stored when it is first needed."""

    def __init__(self, store: RecordStore, entry: Mapping[str, Any], place: Place) -> None:
        self._store, self._entry = store, entry
        with storing(store.root):
            self.own = store.provenance(entry)
        self._known = {place: self.own}

    def at(self, place: Place) -> str:
        if place not in self._known:
            compute = {**self._entry["compute"], "device": place.device}
            there = {"accelerator": place.accelerator, "threads": place.threads, "compute": compute}
            self._known[place] = self._store.provenance({**self._entry, **there})
        return self._known[place]


def _describe(plan: Plan, job: Job) -> str:
    what = f"{brief(job.attack.spec)} on {job.surrogate.shown}" if job.attack and job.surrogate else "clean"
    if job.saved is not None:
        what = f"{brief(job.saved.note.attack)} on {job.saved.note.surrogate} ({job.saved.path.name})"
    return f"{plan.dataset.name} {job.case} {what}"


def _failures(plan: Plan, events: Sequence[Event]) -> Iterator[str]:
    """A line per case and reason, however many attacks it cost."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for event in events:
        if event.failed:
            jobs.setdefault((event.job.case, event.error), []).append(_describe(plan, event.job))
    for (_, error), failed in jobs.items():
        more = f" and {len(failed) - 1} more of this case" if len(failed) > 1 else ""
        yield f"{failed[0]}{more}: {error}"


def _print(
    console: Console,
    request: RunRequest,
    plan: Plan,
    events: Sequence[Event],
    everything: Records,
    emit: Emit,
) -> Records:
    """Tables, failures and counts for the terminal; returns the records of this run."""
    writing = request.writing
    folder = writing.out / plan.dataset.name
    keys = {unit.key for event in events for unit in event.units}
    records = _only(everything, keys)
    records = relabelled(records, shown_labels(folder / "records", everything))
    for kind, table in zip(
        ("white-box", "transfer"), both(records, load_flags(folder / "checks")), strict=True
    ):
        if len(table):
            title = f"{plan.dataset.name}, {plan.protocol.name}, {kind}"
            console.print(results_table(table, title, console))
            emit({"dataset": plan.dataset.name, "kind": kind, **row} for row in table.to_dict("records"))
            for line in uneven(table):
                console.print(escape(line), style="yellow", soft_wrap=True)
    for line in _channel_changes(records):
        console.print(escape(line), soft_wrap=True)
    for line in _failures(plan, events):
        console.print(f"[red]failed[/red] {escape(line)}", soft_wrap=True)
    if any(event.traced for event in events):
        traces = escape(str(folder / "records" / ERRORS))
        console.print(f"tracebacks of what nobody expected are in {traces}", soft_wrap=True)
    recorded = sum(e.status is Status.RECORDED for e in events)
    computed = sum(e.status is Status.COMPUTED for e in events)
    note = f"{computed} computed, {recorded} already recorded" + (
        "" if not recorded else " (--recompute measures again)"
    )
    if not request.quiet:
        console.print(f"{note}; tables and records in {escape(str(folder))}")
    if writing.save_adversarial and recorded:
        console.print("what was already recorded was not attacked again, so its volumes were not saved")
    return records


def _channel_changes(records: Records) -> Iterator[str]:
    """A line per attack on images whose channels have a window each: no one number says its budget."""
    costs: Any = records.costs
    costs = costs[costs["linf_channels"].notna() & (costs["attack"] != CLEAN)]
    for (attack, surrogate), rows in costs.groupby(["attack", "surrogate"], sort=False):
        changes = list(dict.fromkeys(rows["linf_channels"]))
        more = f" (and others in {len(changes) - 1} more cases)" if len(changes) > 1 else ""
        yield f"largest change per channel, {brief(attack)} on {surrogate}: {changes[0]}{more}"


def _only(records: Records, keys: set[str]) -> Records:
    """The records of this run's units."""
    wanted = sorted(keys)
    scores, costs, failures = (
        frame.loc[frame["unit"].isin(wanted)] for frame in (records.scores, records.costs, records.failures)
    )
    return Records(scores, costs, failures)
