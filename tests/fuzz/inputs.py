"""From a sample and a seed to a folder with one file that lies."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from .mutate import NAMES, PAYLOADS, VALUES, mutate_bytes, mutate_document, mutate_place
from .samples import Sample

OFTEN_NO_FILE = 0.06


def make_input(sample: Sample, seed: int, folder: Path) -> str:
    """Write the input of a seed to an empty folder and say how it lies.

    Args:
        sample: its format.
        seed: of everything that is drawn.
        folder: does not exist yet.
    """
    rng = random.Random(f"{sample.name}:{seed}")
    shutil.copytree(sample.folder, folder)
    path = folder / sample.file
    if rng.random() < OFTEN_NO_FILE:
        return mutate_place(rng, path)
    content = path.read_bytes()
    changed, how = KINDS[sample.kind](rng, content, path)
    path.write_bytes(changed)
    return how


def _document(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    if rng.random() < 0.2:
        return mutate_bytes(rng, content)
    return mutate_document(rng, json.loads(content))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
"""Ten to the ninth values in eight lines of YAML."""


def _yaml(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    document = json.loads(content)
    if rng.random() < 0.25:
        # References that double: the text grows with n, what it means with 2 ** n.
        doubled = {f"r{n}": [f"@r{n - 1}"] * 2 for n in range(1, 40)}
        body = {**document, "r0": 8, **doubled}
        body["network_def"] = {**body["network_def"], "channels": "@r39"}
        return json.dumps(body).encode(), "doubling"
    if rng.random() < 0.2:
        return (BOMB + "network_def: *a8\n").encode(), "anchors"
    if rng.random() < 0.1:
        return b"network_def: !!python/object/apply:os.system ['touch ran.txt']\n", "tag"
    return _document(rng, content, path)


def _lines(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    if rng.random() < 0.25:
        return mutate_bytes(rng, content)
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.15:
        lines[at:at] = [lines[at]] * rng.choice((1, 3))
        return b"\n".join(lines) + b"\n", "repeated-line"
    lines[at], how = mutate_document(rng, json.loads(lines[at]))
    return b"\n".join(lines) + b"\n", how


def _table(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    rows = [line.split(",") for line in content.decode().splitlines()]
    row, how = (
        rng.choice(rows),
        rng.choice(("cell", "cell", "cell", "more", "fewer", "quote", "long", "many")),
    )
    cell = rng.randrange(len(row))
    if how == "cell":
        row[cell] = str(rng.choice((*NAMES, *PAYLOADS, *VALUES)))
        if rng.random() < 0.5:
            row[cell] = '"' + row[cell].replace('"', '""') + '"'
    elif how == "more":
        row += ["x"] * rng.choice((1, 500))
    elif how == "fewer":
        del row[cell:]
    elif how == "quote":
        row[cell] = '"' + row[cell]
    elif how == "long":
        row[cell] = "x" * 200_000
    else:
        rows += [rows[-1]] * 60_000
    return "\n".join(",".join(r) for r in rows).encode("utf-8", "surrogatepass"), f"table-{how}"


def _packed_table(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    """A lie inside the gzip, or about the gzip itself."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    table, how = _table(rng, gzip.decompress(content), path)
    return gzip.compress(table, mtime=0), how


HEADER: tuple[tuple[int, str, tuple[Any, ...]], ...] = (
    (0, "i", (348, 540, 0, -1, 1543569408)),
    (40, "h", (-1, 0, 1, 2, 3, 4, 5, 7, 8, 32767)),
    (42, "h", (-1, 0, 1, 17, 19, 32767)),
    (44, "h", (-16, 0, 1, 15, 32767)),
    (46, "h", (-17, 0, 1, 32767)),
    (48, "h", (-1, 0, 2, 32767)),
    (50, "h", (-1, 0, 2, 32767)),
    (70, "h", (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999)),
    (72, "h", (0, 1, 8, 16, 32, 64, 128, -8)),
    (76, "f", (-1.0, 0.0, 1.0, float("nan"))),
    (80, "f", (-1.0, 0.0, 1.5, 1e30, float("nan"), float("inf"))),
    (108, "f", (0.0, 1.0, 348.0, 351.0, 352.5, 353.0, 400.0, -352.0, 1e9, 1e30, float("nan"), float("inf"))),
    (112, "f", (0.0, -1.0, 1e-30, 1e30, 1e38, float("nan"), float("inf"), 2.0)),
    (116, "f", (1e30, -1e38, float("nan"), float("inf"), 5.0)),
    (123, "B", (0, 1, 2, 3, 4, 7, 255)),
    (252, "h", (-1, 0, 1, 5, 99)),
    (254, "h", (-1, 0, 1, 5, 99)),
    (280, "f", (0.0, -1.0, 3.0, 1e30, float("nan"), float("inf"))),
    (284, "f", (0.5, 1.0, 1e30, float("nan"))),
    (292, "f", (1e30, float("nan"), float("inf"))),
    (344, "4s", (b"ni1\0", b"n+2\0", b"n+1x", b"\0\0\0\0", b"ni2\0")),
    (348, "4s", (b"\1\0\0\0", b"\xff\xff\xff\xff")),
)
"""Offset, type and values of NIfTI-1 fields."""


def _nifti(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    packed = content[:2] == b"\x1f\x8b"
    if packed:
        import gzip

        content = gzip.decompress(content)
    choice = rng.random()
    if choice < 0.12:
        foreign, how = _foreign(rng, path)
        return foreign, how
    if choice < 0.2:
        changed, how = mutate_bytes(rng, content)
    else:
        changed, how = bytearray(content), "header"
        for at, kind, values in rng.sample(HEADER, rng.choice((1, 1, 1, 2, 3))):
            struct.pack_into(f"<{kind}", changed, at, rng.choice(values))
        changed = bytes(changed)
    if packed:
        changed = gzip.compress(changed)
    return changed, how


def _foreign(rng: random.Random, path: Path) -> tuple[bytes, str]:
    """A file of another format under the name of a NIfTI file."""
    array = np.ones((4, 5, 6), np.int16)
    how = rng.choice(
        ("analyze", "spm", "mgh", "nifti2", "gifti", "minc", "par", "afni", "dicom", "nrrd", "html", "lfs")
    )
    makers: dict[str, Callable[[], bytes]] = {
        "mgh": lambda: nib.MGHImage(array, np.eye(4)).to_bytes(),
        "nifti2": lambda: nib.Nifti2Image(array, np.eye(4)).to_bytes(),
        "analyze": lambda: bytes(nib.AnalyzeImage.header_class().binaryblock) + array.tobytes(),
        "spm": lambda: bytes(nib.Spm99AnalyzeImage.header_class().binaryblock) + array.tobytes(),
    }
    texts = {
        "gifti": b'<?xml version="1.0"?><GIFTI Version="1.0" NumberOfDataArrays="0"></GIFTI>',
        "minc": b"CDF\x01" + bytes(400),
        "par": b"# === DATA DESCRIPTION FILE ===\n# V4.2\n",
        "afni": b"type = integer-attribute\nname = DATASET_DIMENSIONS\ncount = 3\n4 5 6\n",
        "dicom": bytes(128) + b"DICM" + bytes(300),
        "nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\n\n" + array.tobytes(),
        "html": b"<!doctype html><html></html>" + b" " * 400,
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    }
    return (makers[how]() if how in makers else texts[how]), f"foreign-{how}"


def _card(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    if rng.random() < 0.75:
        card = json.loads(header["__metadata__"]["card"])
        if rng.random() < 0.1:
            card["class_names"] = card["class_names"][::-1]
            text, how = json.dumps(card).encode(), "class-order"
        else:
            text, how = mutate_document(rng, card)
        header["__metadata__"]["card"] = text.decode("utf-8", "surrogatepass")
        changed = json.dumps(header).encode("utf-8", "surrogatepass")
    else:
        changed, how = mutate_document(rng, header)
    return len(changed).to_bytes(8, "little") + changed + body, how


def _tensors(rng: random.Random, content: bytes, path: Path) -> tuple[bytes, str]:
    """The checkpoint with a tensor, a name or a wrapper of another kind."""
    import io
    import warnings

    whole = torch.load(io.BytesIO(content), weights_only=True)
    weights: dict[Any, Any] = dict(whole["model_state_dict"])
    name = rng.choice([k for k, v in weights.items() if v.is_floating_point()])
    tensor = weights[name]
    how = rng.choice(sorted(TENSORS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TENSORS[how](weights, name, tensor)
        stream = io.BytesIO()
        # What is nested too deeply for a reader is for a writer, too.
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)
        try:
            torch.save({**whole, "model_state_dict": weights}, stream)
        finally:
            sys.setrecursionlimit(limit)
    return stream.getvalue(), f"tensor-{how}"


def _put(value: Callable[[torch.Tensor], Any]) -> Callable[[dict[Any, Any], str, torch.Tensor], None]:
    def change(weights: dict[Any, Any], name: str, tensor: torch.Tensor) -> None:
        weights[name] = value(tensor)

    return change


def _rename(key: Any) -> Callable[[dict[Any, Any], str, torch.Tensor], None]:
    def change(weights: dict[Any, Any], name: str, tensor: torch.Tensor) -> None:
        weights[key] = weights.pop(name)

    return change


def _itself(weights: dict[Any, Any], name: str, tensor: torch.Tensor) -> None:
    weights["again"] = weights


def _deep(weights: dict[Any, Any], name: str, tensor: torch.Tensor) -> None:
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    weights["deep"] = nested


TENSORS: dict[str, Callable[[dict[Any, Any], str, torch.Tensor], None]] = {
    "sparse": _put(lambda t: t.to_sparse()),
    "csr": _put(lambda t: t.reshape(len(t), -1).to_sparse_csr()),
    "quantized": _put(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "meta": _put(lambda t: t.to("meta")),
    "complex": _put(lambda t: torch.complex(t, torch.ones_like(t))),
    "bool": _put(lambda t: t > 0),
    "integers": _put(lambda t: t.long()),
    "half": _put(lambda t: t.half()),
    "double": _put(lambda t: t.double()),
    "float8": _put(lambda t: t.to(torch.float8_e5m2)),
    "nan": _put(lambda t: torch.full_like(t, float("nan"))),
    "huge": _put(lambda t: torch.zeros(1).expand(1 << 20, 1 << 20)),
    "stride": _put(lambda t: torch.zeros(1).expand(t.shape)),
    "empty": _put(lambda t: torch.zeros(0)),
    "scalar": _put(lambda t: torch.tensor(1.0)),
    "list": _put(lambda t: t.tolist()),
    "none": _put(lambda t: None),
    "parameter": _put(lambda t: torch.nn.Parameter(t)),
    "transposed": _put(lambda t: t.transpose(0, -1)),
    "number": _rename(5),
    "pair": _rename(("a", "b")),
    "ansi": _rename("\x1b[31mred"),
    "surrogate": _rename("\ud800"),
    "prefix": lambda weights, name, tensor: weights.update(
        {f"module.{k}": weights.pop(k) for k in list(weights)}
    ),
    "itself": _itself,
    "deep": _deep,
    "many": lambda weights, name, tensor: weights.update({f"k{n}": torch.zeros(1) for n in range(20_000)}),
}

KINDS: dict[str, Callable[[random.Random, bytes, Path], tuple[bytes, str]]] = {
    "document": _document,
    "yaml": _yaml,
    "lines": _lines,
    "table": _table,
    "packed table": _packed_table,
    "nifti": _nifti,
    "bytes": lambda rng, content, path: mutate_bytes(rng, content),
    "card": _card,
    "tensors": _tensors,
}
