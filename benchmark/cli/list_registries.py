"""The ``list`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from .codes import DONE


def list_registries() -> int:
    """Show models, attacks, datasets, protocols and the checkpoints of the zoo."""
    from .commands.listing import show

    show()
    return DONE
