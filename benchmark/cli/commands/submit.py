"""The ``submit`` command: a run becomes a folder that somebody else can verify and publish."""

from __future__ import annotations

from ...plan.model_text import is_architecture
from ...records.coverage import record_folders
from ...records.submission import (
    CARD,
    add_checkpoint,
    blank_card,
    card_problems,
    copy_run,
    submission_folder,
    write_card,
)
from ...specs.entering import SubmitRequest
from ...specs.program import pasted
from ...specs.spec import Spec
from ..codes import DONE, SOME_FAILED
from .console import say
from .standing import standing_of
from .verify import known_checkpoints


def make_submission(request: SubmitRequest) -> int:
    """Copy a run beside a card and a checkpoint; 0 when it could be handed in, 1 with a line for everything that is lacking.

    Raises:
        UsageError: no records there, or of more than one model.
    """
    runs = [records.parent for records in record_folders(request.run)]
    standing = standing_of(runs, request.protocol)
    model, sha256 = standing.model, standing.sha256
    folder = submission_folder(request.out, model)
    problems = [*standing.problems]
    known = known_checkpoints(request.checkpoints)
    if sha256 in known:
        add_checkpoint(folder, known[sha256], sha256)
    elif is_architecture(Spec.parse(model).name):
        problems.append(
            f"{model}: expected the checkpoint with sha256 {sha256}; give it with --checkpoint FILE"
        )
    for run in runs:
        copy_run(run, folder)
    if request.card is not None:
        write_card(folder, request.card.read_text(encoding="utf-8", errors="replace"))
    elif not (folder / CARD).is_file():
        write_card(folder, blank_card(model, sha256, request.protocol, standing.claims))
    problems += card_problems(folder, model, sha256, request.protocol, standing.claims)
    for text in problems:
        say(text)
    if problems:
        say(f"{folder}: {len(problems)} problems; mend them and say `submit` again")
        return SOME_FAILED
    own = () if is_architecture(Spec.parse(model).name) else ("--model", model)
    say(
        f"{folder}: complete. Whoever receives it says: {pasted(['verify', folder.name, *own, '--data-root', 'DIR'])}"
    )
    return DONE
