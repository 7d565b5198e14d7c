"""The ``unlock`` command: marked files and a key to the original files. Nothing is written that was not proven."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from robustvox.attacks.keys import Key, KeyFileError

from ...harness.faults import CASE_FAILURES, reason_of
from ...records.marked_files import SUFFIXES, case_name, detach, read_stored, unlock_file
from ...records.seal import SealError
from ...specs.requests import UnlockRequest
from ...specs.spec import UsageError
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress

SEAL = ".seal"


def unlock_folder(request: UnlockRequest) -> int:
    """Unlock every file of the folder; 0 when all are there, 1 when some were refused.

    Raises:
        UsageError: a folder or key file that cannot be used.
    """
    console = make_console()
    files = volumes_of(request.folder, request.out)
    key = read_key(request.key_file)
    unlocked, refused = 0, []
    with progress("unlock", len(files)) as bar:
        for path in files:
            try:
                _unlock(path, request.out, key)
                unlocked += 1
            except CASE_FAILURES as error:
                refused.append(f"{path.name}: {reason_of(error)}")
            bar.update(bar.task_ids[0], advance=1)
    for line in refused:
        console.print(f"[red]refused[/red] {escape(line)}", soft_wrap=True)
    console.print(
        f"{unlocked} unlocked, {len(refused)} refused; in {escape(str(request.out))}", soft_wrap=True
    )
    return SOME_FAILED if refused else DONE


def _unlock(path: Path, out: Path, key: Key) -> None:
    """Write the original of one file, unless the very same is there.

    Raises:
        SealError: no seal, a wrong key, a changed file, or another file in its place.
    """
    marked, seal = detach(read_stored(path))
    beside = path.with_name(case_name(path) + SEAL)
    if seal is None:
        if not beside.is_file():
            raise SealError(
                f"expected {beside.name} beside it or a seal in its header, found neither; copy the seal too"
            )
        seal = beside.read_bytes()
    original = unlock_file(marked, seal, key=key)
    target = out / path.name
    if target.exists():
        if read_stored(target).digest != original.digest:
            raise SealError(
                f"expected no other file at {target.name} in the output folder, found one; choose another --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    original.write(target)


def volumes_of(folder: Path, out: Path) -> list[Path]:
    """The NIfTI files of a folder, in the order of their names.

    Raises:
        UsageError: no such folder, none in it, two of one case, or an output folder that would write over them.
    """
    if not folder.is_dir():
        raise UsageError(f"expected a folder of NIfTI files, found none at {folder}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"expected a folder as --out, found the file {out}")
    if out.exists() and out.samefile(folder):
        raise UsageError(
            f"expected another folder as --out, got the input folder {folder}; files are never written over"
        )
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())
    if not files:
        raise UsageError(f"expected .nii or .nii.gz files in {folder}, found none")
    twice = list(_twice(files))
    if twice:
        raise UsageError(
            f"expected one file per case, found {twice[0]}.nii and {twice[0]}.nii.gz; move one of them away"
        )
    return files


def _twice(files: list[Path]) -> Iterator[str]:
    seen: set[str] = set()
    for path in files:
        if case_name(path) in seen:
            yield case_name(path)
        seen.add(case_name(path))


def read_key(path: Path) -> Key:
    """The key in a file; one that cannot be used is a :class:`UsageError`."""
    try:
        return Key.read(path)
    except KeyFileError as error:
        raise UsageError(str(error)) from None
