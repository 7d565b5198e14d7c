"""The ``marking`` command: from what was asked to the tables of the study of marks.

``results/<dataset>/marking/cases.csv.gz`` has a row per case, seed, mark, view and model and is the only thing that is
measured; ``marking.csv|md`` follow from it. What is there is not measured again, so that
more keys or cases cost only themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...harness.faults import CASE_FAILURES, reason_of
from ...plan.build import load_models
from ...plan.cases import load_dataset, select_cases
from ...plan.models import choose_device
from ...records.patients import note_patients
from ...records.sources import claim
from ...specs.program import pasted
from ...specs.protocols import find_protocol
from ...specs.requests import MarkingRequest
from ...specs.spec import UsageError, match
from ...studies.marking.attackers import load_or_train
from ...studies.marking.marks import StudiedMark, studied_marks
from ...studies.marking.study import MarkBench, study_mark
from ...studies.marking.tables import measured, summary, write
from ...studies.marking.trained import RemoverRecipe
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress
from .fitted_table import fitted_markdown


def study_marks(request: MarkingRequest) -> int:
    """Mark, remove, score, print and write; 0 when everything is done, 1 when some cases failed.

    Raises:
        UsageError: for any name, number, path or combination that cannot be.
    """
    console = make_console()
    folder, bench = _prepare(request)
    note_patients(folder, bench.dataset, bench.cases)
    failures: list[str] = []
    jobs = list(bench.jobs())
    with progress(f"{bench.dataset.name}: marks", len(jobs)) as bar:
        for job in jobs:
            try:
                study = bench.identity(job.mark, job.look)
                if not measured(folder, study, job):
                    write(folder, study_mark(bench, job), study)
            except UsageError:
                raise
            except CASE_FAILURES as error:
                where = f"{bench.dataset.name} {job.case} {job.mark.name}, key {job.seed}"
                failures.append(f"{where}: {reason_of(error)}")
            bar.update(bar.task_ids[0], advance=1)
    text = summary(folder)
    if text:
        for part in fitted_markdown(console, text):
            console.print(part)
        console.print(f"tables in {escape(str(folder))}", soft_wrap=True)
    for line in failures:
        console.print(f"[red]failed[/red] {escape(line)}", soft_wrap=True)
    return SOME_FAILED if failures else DONE


def _prepare(request: MarkingRequest) -> tuple[Path, MarkBench]:
    crossing = request.crossing
    if not crossing.models:
        raise UsageError(f"expected at least one --model to make marks on; see `{pasted(['list'])}`")
    protocol = find_protocol(crossing.protocol)
    dataset = load_dataset(crossing.dataset, crossing.data_root, request.out)
    device = choose_device(request.computing.device)
    # Those that are attacked too are the same network; others have the weights of the zoo.
    targets = (*crossing.targets, *(request.attackers or crossing.models[:1]))
    loaded = load_models(replace(crossing, targets=targets), request.computing, dataset, protocol, device)
    scored = len(crossing.models) + len(crossing.targets)
    owner, attackers = loaded[: len(crossing.models)], loaded[scored:]
    claim(request.out, dataset)
    folder = request.out / dataset.name / "marking"
    bench = MarkBench(
        dataset=dataset,
        protocol=protocol,
        cases=select_cases(dataset, crossing.split, crossing.cases),
        marks=_chosen(studied_marks(owner), request.marks),
        targets=list({m.key: m for m in loaded[:scored]}.values()),
        attackers=[
            load_or_train(
                folder,
                model,
                dataset,
                dataset.splits["train"][: request.pairs],
                RemoverRecipe(steps=request.remover_steps),
                device,
            )
            for model in attackers
            if request.thorough
        ],
        thorough=request.thorough,
        seeds=request.seeds,
        device=device,
    )
    overlap = sorted({*bench.cases} & {*dataset.splits["train"][: request.pairs]})
    if overlap:
        raise UsageError(
            f"expected cases the removers were not trained on, got {overlap[0]}; use --split validation"
        )
    return folder, bench


def _chosen(marks: list[StudiedMark], names: Sequence[str]) -> list[StudiedMark]:
    known = {mark.name: mark for mark in marks}
    return [known[match(name, known, "--mark")] for name in names] or marks
