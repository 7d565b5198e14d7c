"""The ``run`` command: from what was asked to a plan, through the harness, to tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.markup import escape

from robustvox.datasets import Dataset

from . import tables
from .console import brief, make_console, progress, results_table
from .harness import Event, Job, Plan, describe_plan, execute
from .loading import NamedAttack, NamedModel, load_attack, load_dataset, load_model
from .matching import MEASURES, match_all
from .pool import submitter
from .protocols import Protocol, find_protocol
from .provenance import describe
from .records import Records, RecordStore, load_records
from .sanity.store import load_flags
from .saving import UNITS, save_adversarial
from .specs import UsageError, match, normalize

DONE, SOME_FAILED = 0, 1


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The command line of ``run`` as written; see ``python -m benchmark run --help``."""

    models: tuple[str, ...]
    attacks: tuple[str, ...]
    targets: tuple[str, ...] = ()
    transfer: bool = False
    dataset: str = "phantom"
    data_root: Path | None = None
    split: str = "validation"
    cases: str = "4"
    protocol: str = "robustvox-1"
    seed: int = 0
    device: str = "auto"
    checkpoints: tuple[Path, ...] = ()
    untrained: bool = False
    save_adversarial: bool = False
    units: str = "unit"
    sw_batch_size: int = 4
    workers: int = 0
    scheduler: str | None = None
    recompute: bool = False
    match: str | None = None
    match_on: str | None = None
    out: Path = Path("results")


def run_benchmark(request: RunRequest) -> int:
    """Do what the request says; 0 when everything is done, 1 when some cases failed."""
    console = make_console()
    plan = build_plan(request)
    jobs = sum(1 for _ in plan.jobs())
    entry = describe() | dict(describe_plan(plan))
    events: list[Event] = []
    with (
        RecordStore(request.out / plan.dataset.name / "records") as store,
        submitter(request) as submit,
        progress(f"{plan.dataset.name}: {len(plan.cases)} cases", jobs) as bar,
    ):
        provenance = store.provenance({"protocol": plan.protocol.name, **entry})
        for event in execute(plan, store, provenance, recompute=request.recompute, submit=submit):
            events.append(event)
            bar.update(bar.task_ids[0], advance=1, description=_describe(plan, event.job))
    tables.write(request.out)
    _report(console, request, plan, events)
    return SOME_FAILED if any(e.status == "failed" for e in events) else DONE


def build_plan(request: RunRequest) -> Plan:
    """Resolve every name of the request.

    Raises:
        UsageError: for any name, parameter, path or combination that cannot be.
    """
    if not request.models or not request.attacks:
        raise UsageError("expected at least one --model and one --attack; see `python -m benchmark list`")
    protocol = find_protocol(request.protocol)
    attacks = load_attacks(request, protocol)
    dataset = load_dataset(request.dataset, request.data_root)
    device = choose_device(request.device)
    models = load_models(request, dataset, protocol, device)
    surrogates = models[: len(request.models)]
    targets = models[len(request.models) :] if request.targets and not request.transfer else models
    if request.units not in UNITS:
        raise UsageError(f"expected --units among {', '.join(UNITS)}, got {request.units!r}")
    plan = Plan(
        dataset=dataset,
        cases=select_cases(dataset, request.split, request.cases),
        surrogates=surrogates,
        targets=targets,
        attacks=attacks,
        protocol=protocol,
        seed=request.seed,
        device=device,
        white_box=not (request.targets or request.transfer),
    )
    return replace(plan, save=_saver(request, plan)) if request.save_adversarial else plan


def load_attacks(request: RunRequest, protocol: Protocol) -> list[NamedAttack]:
    """The attacks in the order given, matched to a reference where ``--match`` names one."""
    attacks = [load_attack(text, protocol) for text in request.attacks]
    if request.match is None:
        if request.match_on is not None:
            raise UsageError("expected --match ATTACK with --match-on, got none; add --match pgd:eps=8/255")
        return attacks
    measure = match(request.match_on or "l2", MEASURES, "--match-on")
    return match_all(attacks, load_attack(request.match, protocol), measure)


def load_models(request: RunRequest, dataset: Dataset, protocol: Protocol, device: str) -> list[NamedModel]:
    """Surrogates in the order given, then targets; one that is named twice is loaded once."""
    if len(request.checkpoints) not in (0, len(request.models)):
        raise UsageError(
            f"expected one --checkpoint per --model ({len(request.models)}), got {len(request.checkpoints)}; "
            "repeat it in the order of the models"
        )
    files: dict[str, Path] = dict(zip(map(normalize, request.models), request.checkpoints, strict=False))
    loaded: dict[str, NamedModel] = {}
    order = [*request.models, *request.targets]
    for text in order:
        if normalize(text) not in loaded:
            loaded[normalize(text)] = load_model(
                text,
                dataset,
                protocol,
                checkpoint=files.get(normalize(text)),
                untrained=request.untrained,
                device=device,
                sw_batch_size=request.sw_batch_size,
                seed=request.seed,
            )
    return [loaded[normalize(text)] for text in order]


def select_cases(dataset: Dataset, split: str, cases: str) -> tuple[str, ...]:
    """The first ``cases`` of a split, all of it, or ids separated by commas."""
    known = dataset.splits[match(split, dataset.splits, "split")]
    if cases.lower() == "all":
        return tuple(known)
    if cases.isdigit():
        if int(cases) < 1:
            raise UsageError("expected --cases of at least 1, got 0")
        return tuple(known[: int(cases)])
    wanted = [c.strip() for c in cases.split(",") if c.strip()]
    everything = {c for ids in dataset.splits.values() for c in ids}
    unknown = [c for c in wanted if c not in everything]
    if unknown or not wanted:
        raise UsageError(
            f"expected --cases as a number, `all` or ids of {dataset.name}, got {', '.join(unknown) or repr(cases)}; "
            f"ids look like {known[0]}"
        )
    return tuple(dict.fromkeys(wanted))


def choose_device(name: str) -> str:
    """``auto`` takes an accelerator when there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"expected a usable --device, got {name!r}: {str(error).splitlines()[0]}") from error
    return name


def _saver(request: RunRequest, plan: Plan):
    def save(job: Job, volume, image) -> None:
        if job.surrogate is None or job.attack is None:
            return
        from .harness import data_fingerprint

        unit = plan.unit(job, job.targets[0], data_fingerprint(volume))
        save_adversarial(
            request.out / plan.dataset.name / "adversarial",
            volume,
            image,
            surrogate=job.surrogate.name,
            attack=job.attack.spec,
            key=unit.key,
            units=request.units,
        )

    return save


def _describe(plan: Plan, job: Job) -> str:
    what = f"{brief(job.attack.spec)} on {job.surrogate.name}" if job.attack and job.surrogate else "clean"
    return escape(f"{plan.dataset.name} {job.case} {what}")


def _report(console, request: RunRequest, plan: Plan, events: Sequence[Event]) -> None:
    folder = request.out / plan.dataset.name
    keys = {unit.key for event in events for unit in event.units}
    records, checks = _only(load_records(folder / "records"), keys), load_flags(folder / "checks")
    for title, table in (
        (f"{plan.dataset.name}, {plan.protocol.name}, white-box", tables.white_box(records, checks)),
        (f"{plan.dataset.name}, {plan.protocol.name}, transfer", tables.transfer(records, checks)),
    ):
        if len(table):
            console.print(results_table(table, title))
    for event in events:
        if event.status == "failed":
            console.print(
                f"[red]failed[/red] {escape(_describe(plan, event.job))}: {escape(event.error)}",
                soft_wrap=True,
            )
    recorded = sum(e.status == "recorded" for e in events)
    computed = sum(e.status == "computed" for e in events)
    note = f"{computed} computed, {recorded} already recorded" + (
        "" if not recorded else " (--recompute measures again)"
    )
    console.print(f"{note}; tables and records in {escape(str(folder))}")


def _only(records: Records, keys: set[str]) -> Records:
    """The records of this run's units."""
    wanted = sorted(keys)
    scores, costs, failures = (
        frame.loc[frame["unit"].isin(wanted)] for frame in (records.scores, records.costs, records.failures)
    )
    return Records(scores, costs, failures)
