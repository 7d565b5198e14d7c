"""What the user calls models in tables, beside the records: ``<dataset>/records/labels.json``.

A label is how a model is shown and no part of what it is: its rows keep their name and hash, so a label that is given,
changed or dropped computes nothing again, and whoever verifies or publishes the rows finds the model behind them.
Published results show models by their own names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .reading import read_bytes
from .schema import LabelLine, problem_of
from .sources import is_published
from .unit import RecordsError
from .writing import replace_file

FILE = "labels.json"

Labels = Mapping[tuple[str, str], str]
"""Label of a model by its recorded name and sha256."""


def read_labels(records: Path) -> Labels:
    """The labels of the models of a folder of records; none where it is published, or none were given.

    Raises:
        RecordsError: what lies there is no list of labels.

    Example:
        >>> read_labels(Path("no/such/records"))
        {}
    """
    path = records / FILE
    content = b"" if is_published(records.parent.parent) else read_bytes(path)
    if not content:
        return {}
    found: dict[tuple[str, str], str] = {}
    try:
        lines = json.loads(content)
    except (ValueError, RecursionError):
        lines = None
    for line in lines if isinstance(lines, list) else [None]:
        if not isinstance(line, dict) or (problem := problem_of(LabelLine, line, "label")):
            what = problem if isinstance(line, dict) else f"{line!r:.40}"
            raise RecordsError(
                f"{path}: expected a list of labels, got {what}; remove the file, tables then show recorded names"
            )
        found[line["name"], line["sha256"]] = line["label"]
    return found


def keep_labels(records: Path, labels: Labels) -> None:
    """Add labels to those of a folder of records; of one model the last one counts.

    Raises:
        RecordsError: as :func:`read_labels`.
    """
    known = dict(read_labels(records))
    if not labels.items() <= known.items():
        kept = sorted({**known, **labels}.items())
        lines = [{"name": name, "sha256": sha256, "label": label} for (name, sha256), label in kept]
        replace_file(records / FILE, json.dumps(lines, indent=1) + "\n", durable=True)
