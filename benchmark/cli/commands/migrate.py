"""The ``migrate`` command: records of older versions in the compact form, a third of the bytes, the same rows."""

from __future__ import annotations

from ...records.coverage import record_folders
from ...records.migrate import migrate_folder
from ...specs.requests import MigrateRequest
from ..codes import DONE
from .console import say


def migrate_records(request: MigrateRequest) -> int:
    """Rewrite what is not compact yet, and say how much it was; a second time there is nothing to do.

    Raises:
        UsageError: no records there.
        RecordsError: they are damaged, or another run is writing.
    """
    for folder in record_folders(request.out):
        done = migrate_folder(folder)
        say(
            f"{folder}: {done.files} files rewritten, {done.units} units, {done.before} bytes before and {done.after} after"
        )
    return DONE
