"""``figures --ranking``: the best and the worst model of a ranking on one case, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...harness.bench import Bench
from ...harness.compute import Scored, mean_dice
from ...harness.faults import CASE_FAILURES
from ...plan.build import build_plan
from ...plan.plan import Job
from ...records.sources import recorded_name
from ...records.writing import replace_file
from ...report.examples import make_example
from ...show.figures.strip import strip
from ...show.files import load_board
from ...show.page.pictured import FOLDER, LARGEST, SUFFIX, Pictured, Shown, pictured
from ...show.page.ranking import rank
from ...specs.requests import FiguresRequest
from ...specs.spec import CLEAN, UsageError
from ...specs.tolerances import tolerance_of
from ..codes import DONE, SOME_FAILED
from .console import progress, say


def draw_ranking(request: FiguresRequest) -> int:
    """Attack the case that the page shows again and write its picture beside the records; 1 when it is not as recorded.

    Raises:
        UsageError: nothing is ranked there, or a model of the ranking cannot be had.
    """
    crossing = request.crossing
    if crossing.models or crossing.attacks:
        raise UsageError(
            "expected --ranking alone, which names its models and its attack, got --model or --attack"
        )
    name = recorded_name(request.results, crossing.dataset)
    board = load_board(request.results / name)
    wanted = pictured(board, rank(board, crossing.protocol))
    if wanted is None:
        raise UsageError(
            f"expected two ranked models on {name} under {crossing.protocol}, found fewer; `suite` measures what is lacking"
        )
    asked = replace(
        crossing, models=tuple(row.stored for row in wanted.rows), attacks=(wanted.attack,), cases=wanted.case,
        seed=wanted.seed,
    )  # fmt: skip
    bench = Bench(build_plan(asked, request.computing, request.results))
    for row, model in zip(wanted.rows, bench.plan.surrogates, strict=True):
        if model.sha256 != row.sha256:
            raise UsageError(
                f"expected the recorded checkpoint of {row.model}, {row.sha256[:16]}, got {model.sha256[:16]}; give "
                "--checkpoint for the best and the worst model, in this order"
            )
    try:
        with progress(f"{name}: picture", len(wanted.rows)) as bar:
            pairs = []
            for pair in _scored(bench, wanted):
                pairs.append(pair)
                bar.update(bar.task_ids[0], advance=1)
    except CASE_FAILURES as error:
        say(f"failed {wanted.case}: {error}")
        return SOME_FAILED
    problems = [
        text for row, pair in zip(wanted.rows, pairs, strict=True) for text in _away(wanted, row, *pair)
    ]
    for text in problems:
        say(text)
    if problems:
        return SOME_FAILED
    try:
        data = strip([make_example(bench.plan, *pair) for pair in pairs])
    except ValueError as error:
        raise UsageError(f"{wanted.case}: {error}") from error
    if len(data) > LARGEST:
        raise UsageError(
            f"expected a picture of at most {LARGEST} bytes, got {len(data)}; the slices are too large"
        )
    folder = request.results / name / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink(missing_ok=True)
    path = folder / f"{wanted.key}{SUFFIX}"
    replace_file(path, data)
    say(
        f"{path}: {wanted.rows[0].model} and {wanted.rows[1].model} on {wanted.case}; `leaderboard` puts it on the page"
    )
    return DONE


def _scored(bench: Bench, wanted: Pictured) -> Iterator[tuple[Scored, Scored]]:
    """The clean and the attacked volume of every row, on its own model."""
    (attack,) = bench.plan.attacks
    for model in bench.plan.surrogates:
        clean = bench.scored(Job(wanted.case, None, None, (model,)), model)
        yield clean, bench.scored(Job(wanted.case, model, attack, (model,)), model)


def _away(wanted: Pictured, row: Shown, clean: Scored, attacked: Scored) -> Iterator[str]:
    """Where what was computed now is not what the records say, a line each."""
    for what, scored, recorded in ((CLEAN, clean, row.clean), (wanted.attack, attacked, row.attacked)):
        found = mean_dice(scored.outcome.scores)
        if not abs(found - recorded) <= tolerance_of(what, elsewhere=True):
            yield (
                f"{row.model}, {wanted.case}, {what}: expected Dice {recorded:.4f} as recorded, got {found:.4f}; "
                "no picture of other volumes is made"
            )
