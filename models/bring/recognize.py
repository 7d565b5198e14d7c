"""What a path is, told by its content: no file name ending is believed, no file is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..header import CheckpointError

FORMATS = {
    "bundle": "a MONAI bundle folder (configs/metadata.json)",
    "nnunet": "a trained-model folder of nnU-Net v2 (dataset.json, plans.json, fold_*)",
    "published": "a PyTorch checkpoint (.pt, .pth, .ckpt) of the BMVC'24 or VAFA repositories",
    "safetensors": "a .safetensors checkpoint of robustvox",
    "torchscript": "a TorchScript archive (.pt of torch.jit.save)",
}

TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""How a PyTorch file before version 1.6 begins, after the bytes of pickling."""

_LOOKS = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself",
    b"<!doctype html": "a web page; the download was not of the file",
    b"<html": "a web page; the download was not of the file",
}


def recognize(path: str | Path) -> str:
    """The key of ``FORMATS`` that a folder or file is.

    Raises:
        CheckpointError: nothing there, or nothing known; says what was expected and what was found.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path)
    raise _unknown(path, "nothing there; correct the path")


def _folder(path: Path) -> str:
    if (path / "configs" / "metadata.json").is_file():
        return "bundle"
    nnunet = [name for name in ("dataset.json", "plans.json") if (path / name).is_file()]
    folds = any(path.glob("fold_*"))
    if len(nnunet) == 2 and folds:
        return "nnunet"
    if nnunet == ["dataset.json"] and not folds:
        raise _unknown(path, "a folder with a dataset.json; a dataset is given to --dataset")
    if nnunet or folds:
        lacking = [n for n in ("dataset.json", "plans.json") if n not in nnunet] + ["fold_*"] * (not folds)
        raise _unknown(path, f"part of an nnU-Net v2 model, without {' and '.join(lacking)}")
    inside = sorted(p.name for p in path.iterdir())
    some = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    raise _unknown(path, f"a folder with {some}" if inside else "an empty folder")


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise _unknown(path, f"a file that cannot be read ({error.strerror})") from None
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[:1] == b"\x80":
        if TORCH_MAGIC in head:
            return "published"
        raise _unknown(path, "a pickle, which is code; save model.state_dict() with torch.save")
    for start, what in _LOOKS.items():
        if head.lstrip().lower().startswith(start):
            raise _unknown(path, what)
    raise _unknown(path, "something else; give the file that was saved" if head else "an empty file")


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError):
        raise _unknown(path, "a damaged or incomplete archive; copy the file again") from None
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("data.pkl") for name in names):
        return "published"
    raise _unknown(path, "a zip archive; unpack it and give the folder")


def _unknown(path: Path, found: str) -> CheckpointError:
    return CheckpointError(f"expected {', '.join(FORMATS.values())}, found in {path.name}: {found}")
