"""The ``run`` command: from what was asked to a plan, through the harness, to tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from robustvox.datasets import Dataset
from robustvox.models import CATALOG as MODEL_CATALOG

from . import tables
from .bringing import locate
from .console import brief, make_console, progress, results_table
from .harness import Event, Job, Plan, data_fingerprint, describe_plan, execute
from .loading import NamedAttack, NamedModel, load_attack, load_dataset, load_model
from .matching import MEASURES, match_all
from .pool import submitter
from .protocols import Protocol, find_protocol
from .provenance import describe
from .records import Records, RecordStore, load_records
from .report.facts import Run
from .report.gallery import FirstCase
from .report.writing import announce
from .rescoring import open_folder
from .sanity.store import load_flags
from .saving import UNITS, Note, save_adversarial
from .specs import Spec, UsageError, match, normalize

DONE, SOME_FAILED = 0, 1

EVERY_SPLIT = "*"
"""In place of a split's name: where ids decide, the split does not matter."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The command line of ``run`` as written; see ``python -m benchmark run --help``."""

    models: tuple[str, ...]
    attacks: tuple[str, ...]
    targets: tuple[str, ...] = ()
    transfer: bool = False
    adversarial: Path | None = None
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
    report: bool = True
    out: Path = Path("results")


def run_benchmark(request: RunRequest) -> int:
    """Do what the request says; 0 when everything is done, 1 when some cases failed."""
    started, clock = time.time(), time.perf_counter()
    console = make_console()
    gallery = FirstCase()
    plan = build_plan(request)
    plan = replace(plan, watch=gallery) if request.report else plan
    for line in dict.fromkeys(
        f"{m.name}: {note}" for m in (*plan.surrogates, *plan.targets) for note in m.notes
    ):
        console.print(escape(line), style="dim", soft_wrap=True)
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
            bar.update(bar.task_ids[0], advance=1, description=escape(_describe(plan, event.job)))
    tables.write(request.out)
    records = _print(console, request, plan, events)
    if request.report:
        announce(
            console,
            Run(
                plan=plan,
                events=events,
                records=records,
                environment=entry,
                provenance=provenance,
                out=request.out,
                started=started,
                seconds=time.perf_counter() - clock,
                gallery=gallery,
            ),
        )
    for line in plan.refused:
        console.print(f"[red]refused[/red] {escape(line)}", soft_wrap=True)
    return SOME_FAILED if plan.refused or any(e.status == "failed" for e in events) else DONE


def build_plan(request: RunRequest) -> Plan:
    """Resolve every name of the request.

    Raises:
        UsageError: for any name, parameter, path or combination that cannot be.
    """
    if request.adversarial is not None:
        return _build_rescoring(request, request.adversarial)
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


def _build_rescoring(request: RunRequest, directory: Path) -> Plan:
    """The plan that scores the volumes saved in a directory on ``--target``; models and attacks are in their notes."""
    given = {
        "--model": request.models,
        "--attack": request.attacks,
        "--transfer": request.transfer,
        "--match": request.match,
        "--save-adversarial": request.save_adversarial,
    }
    superfluous = [option for option, value in given.items() if value]
    if superfluous or not request.targets:
        raise UsageError(
            "expected --adversarial DIR with --target NAME and neither model nor attack, which the files know; got "
            + (", ".join(superfluous) or "no --target")
        )
    protocol = find_protocol(request.protocol)
    dataset = load_dataset(request.dataset, request.data_root)
    device = choose_device(request.device)
    folder = open_folder(
        directory, dataset, protocol.name, select_cases(dataset, request.split, request.cases)
    )
    if not folder.volumes and not folder.refused:
        raise UsageError(f"expected volumes of the chosen cases in {directory}, found none; see --cases")
    targets = load_models(replace(request, models=request.targets, targets=()), dataset, protocol, device)
    return Plan(
        dataset=dataset,
        cases=folder.cases,
        surrogates=(),
        targets=targets,
        attacks=(),
        protocol=protocol,
        # Of the clean images only, which no seed changes: theirs are then found in the records.
        seed=min((volume.note.seed for volume in folder.volumes), default=request.seed),
        device=device,
        saved=folder.volumes,
        refused=folder.refused,
    )


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
    named = [text for text in request.models if locate(text, MODEL_CATALOG) is None]
    if len(request.checkpoints) not in (0, len(named)):
        raise UsageError(
            f"expected one --checkpoint per {'--target' if request.adversarial else '--model'} ({len(named)}, a path "
            f"has its own weights), got {len(request.checkpoints)}; repeat it in the order of the models"
        )
    files = iter(request.checkpoints)
    order = [(text, next(files, None) if text in named else None) for text in request.models]
    for text in request.targets:
        # A target that is also attacked is the same network, so it has the same weights.
        same = {file for other, file in order if _identity(other) == _identity(text)}
        if len(same) > 1:
            raise UsageError(
                f"expected one --checkpoint for the target {text}, got {len(same)}; name the target by its file"
            )
        order.append((text, next(iter(same), None)))
    loaded: dict[tuple[str, Path | None], NamedModel] = {}
    for text, checkpoint in order:
        if (_identity(text), checkpoint) not in loaded:
            loaded[_identity(text), checkpoint] = load_model(
                text,
                dataset,
                protocol,
                checkpoint=checkpoint,
                untrained=request.untrained,
                device=device,
                sw_batch_size=request.sw_batch_size,
                seed=request.seed,
            )
    return [loaded[_identity(text), checkpoint] for text, checkpoint in order]


def _identity(text: str) -> str:
    """Equal for two ways to write a registered name; paths and imports are what they are to the letter."""
    return text if locate(text, MODEL_CATALOG) or ":" in Spec.parse(text).name else normalize(text)


def select_cases(dataset: Dataset, split: str, cases: str) -> tuple[str, ...]:
    """The first ``cases`` of a split (or of every split), all of it, or ids separated by commas."""
    everything = tuple(dict.fromkeys(c for ids in dataset.splits.values() for c in ids))
    known = everything if split == EVERY_SPLIT else dataset.splits[match(split, dataset.splits, "split")]
    if cases.lower() == "all":
        return tuple(known)
    if cases.isdigit():
        if int(cases) < 1:
            raise UsageError("expected --cases of at least 1, got 0")
        return tuple(known[: int(cases)])
    wanted = [c.strip() for c in cases.split(",") if c.strip()]
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
    def save(job: Job, volume, image, cost: Mapping[str, Any]) -> None:
        unit = plan.unit(job, job.targets[0], data_fingerprint(volume))
        note = Note(
            key=unit.key,
            units=request.units,
            dataset=unit.dataset,
            case=unit.case,
            attack=unit.attack,
            surrogate=unit.surrogate,
            surrogate_sha256=unit.surrogate_sha256,
            protocol=unit.protocol,
            seed=unit.seed,
            data_sha256=unit.data_sha256,
            **cost,
        )
        save_adversarial(request.out / plan.dataset.name / "adversarial", volume, image, note)

    return save


def _describe(plan: Plan, job: Job) -> str:
    what = f"{brief(job.attack.spec)} on {job.surrogate.name}" if job.attack and job.surrogate else "clean"
    if job.saved is not None:
        what = f"{brief(job.saved.note.attack)} on {job.saved.note.surrogate} ({job.saved.path.name})"
    return f"{plan.dataset.name} {job.case} {what}"


def _failures(plan: Plan, events: Sequence[Event]) -> Iterator[str]:
    """A line per case and reason, however many attacks it cost."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for event in events:
        if event.status == "failed":
            jobs.setdefault((event.job.case, event.error), []).append(_describe(plan, event.job))
    for (_, error), failed in jobs.items():
        more = f" and {len(failed) - 1} more of this case" if len(failed) > 1 else ""
        yield f"{failed[0]}{more}: {error}"


def _print(console: Console, request: RunRequest, plan: Plan, events: Sequence[Event]) -> Records:
    """Tables, failures and counts for the terminal; returns the records of this run."""
    folder = request.out / plan.dataset.name
    keys = {unit.key for event in events for unit in event.units}
    records, checks = _only(load_records(folder / "records"), keys), load_flags(folder / "checks")
    for title, table in (
        (f"{plan.dataset.name}, {plan.protocol.name}, white-box", tables.white_box(records, checks)),
        (f"{plan.dataset.name}, {plan.protocol.name}, transfer", tables.transfer(records, checks)),
    ):
        if len(table):
            console.print(results_table(table, title))
    for line in _failures(plan, events):
        console.print(f"[red]failed[/red] {escape(line)}", soft_wrap=True)
    recorded = sum(e.status == "recorded" for e in events)
    computed = sum(e.status == "computed" for e in events)
    note = f"{computed} computed, {recorded} already recorded" + (
        "" if not recorded else " (--recompute measures again)"
    )
    console.print(f"{note}; tables and records in {escape(str(folder))}")
    if request.save_adversarial and recorded:
        console.print("what was already recorded was not attacked again, so its volumes were not saved")
    return records


def _only(records: Records, keys: set[str]) -> Records:
    """The records of this run's units."""
    wanted = sorted(keys)
    scores, costs, failures = (
        frame.loc[frame["unit"].isin(wanted)] for frame in (records.scores, records.costs, records.failures)
    )
    return Records(scores, costs, failures)
