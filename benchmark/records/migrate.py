"""From the first form of records to the compact one, file by file, without losing a unit or a bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .compact import Definitions, is_compact, write_lines
from .lock import FolderLock
from .reading import read_blocks, read_bytes
from .rows import parse_line
from .unit import RecordsError
from .writing import replace_file


@dataclass(frozen=True)
class Migration:
    """What became of one folder of records.

    Args:
        folder: ``results/<dataset>/records``.
        files: that were rewritten.
        units: of all files, failures and replaced units included.
        before, after: bytes of all files.
    """

    folder: Path
    files: int
    units: int
    before: int
    after: int


def migrate_folder(folder: Path) -> Migration:
    """Rewrite every file of a records folder that has lines of the first form; what is compact already stays as it is.

    A file is replaced in one piece after it was read back and compared, so that a kill leaves the old one or the new one.

    Raises:
        RecordsError: a damaged line, another writer, or a file that would not say the same.
    """
    changed = units = before = after = 0
    with FolderLock(folder):
        for path in sorted(folder.glob("*/*/*.jsonl")):
            content = read_bytes(path)
            blocks = [block for block, _ in read_blocks(path)]
            before, units = before + len(content), units + len(blocks)
            if all(is_compact(parse_line(line)) for line in content.splitlines()):
                after += len(content)
                continue
            known = Definitions()
            made = b"".join(write_lines(known.new_lines(block)) for block in blocks)
            _replace(path, made, blocks)
            changed, after = changed + 1, after + len(made)
    return Migration(folder, changed, units, before, after)


def _replace(path: Path, made: bytes, blocks: list[list[dict]]) -> None:
    trial = path.with_name(f".{path.name}.trial")
    try:
        trial.write_bytes(made)
        same = [block for block, _ in read_blocks(trial)]
    finally:
        trial.unlink(missing_ok=True)
    names = [{name: row[name] for name in row} for block in blocks for row in block]
    if [row for block in same for row in block] != names:
        raise RecordsError(
            f"{path}: expected the same rows from the compact form, got others; nothing was changed"
        )
    replace_file(path, made, durable=True)
