"""``leaderboard --publish``: a run is looked through, and then its rows are added to the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ...records.coverage import orphans, record_folders, row_problems
from ...records.publish import add, conflicts, mark_published
from ...records.reading import load_records
from ...records.submission import CARD, Card, publish_card, read_submitted
from ...records.suite import impostors
from ...show.budgets import overruns
from ...show.files import write
from ..codes import DONE, SOME_FAILED
from .console import say


def publish(run: Path, results: Path, echo: Callable[[str], None] = say) -> int:
    """Add what a run recorded to the published results and rebuild every table; 1 when something is wrong with it.

    Nothing is added unless everything of the run is sound: whole, unedited, of the same data, and nowhere in
    contradiction to what is published.

    Raises:
        UsageError: no records there.
        RecordsError: damaged records, or another writer.
    """
    folders = _datasets(run)
    card = read_submitted(run / CARD) if (run / CARD).is_file() else None
    problems = [text for folder in folders for text in _problems(folder, results / folder.name)]
    problems += _card_problems(run / CARD, card, folders) if not problems else []
    for text in problems:
        echo(text)
    if problems:
        echo(f"{run}: {len(problems)} problems, nothing was added to {results}")
        return SOME_FAILED
    for folder in folders:
        done = add(folder, results / folder.name)
        echo(
            f"{done.dataset}: {done.rows} rows added, {done.known} were published already, {done.checks} outcomes of checks"
        )
    if isinstance(card, Card):
        publish_card(card, results)
    mark_published(results)
    write(results, readme=True)
    return DONE


def _datasets(run: Path) -> list[Path]:
    """Folders of datasets with records or with outcomes of checks alone; `suite` makes those where every row is known."""
    below = [run, *sorted(run.glob("*/"))]
    found = [folder for folder in below if (folder / "records").is_dir() or (folder / "checks").is_dir()]
    return found or [records.parent for records in record_folders(run)]


def _problems(run: Path, published: Path) -> Iterator[str]:
    records = load_records(run / "records")
    found = [*row_problems(run / "records", records), *orphans(run / "records", records)]
    yield from found
    if not found:
        yield from impostors(run / "records", records)
        yield from overruns(run / "records", records)
        yield from conflicts(run, published)


def _card_problems(path: Path, card: Card | str | None, folders: list[Path]) -> Iterator[str]:
    """What is wrong with the card that came with a run; nothing where none did."""
    if isinstance(card, str):
        yield card
    elif card is not None:
        costs = [load_records(folder / "records").costs for folder in folders]
        known = {sha256 for frame in costs for sha256 in frame["surrogate_sha256"]}
        if card.sha256 not in known:
            yield f"{path}: expected the sha256 of a model that was run, got {card.sha256}; correct the card"
