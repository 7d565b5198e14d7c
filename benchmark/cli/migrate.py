"""The ``migrate`` command as typed."""

from __future__ import annotations

from ..specs.requests import MigrateRequest
from .options import command


@command(MigrateRequest)
def migrate(request: MigrateRequest) -> int:
    """Rewrite records of older versions in the compact form; tables stay the same."""
    from .commands.migrate import migrate_records

    return migrate_records(request)
