"""What a reading must not get wrong, worked out without the code that read it."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustvox.benchmark.cli import reported
from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.plan.build import build_plan
from robustvox.benchmark.records import load_records
from robustvox.benchmark.specs.crossing import Computing, Crossing
from robustvox.datasets import open_dataset

LAST: dict[str, Any] = {}
"""What the last call of this process made, for the check after it."""


def nothing(folder: Path) -> str:
    """Nothing is known of this format but that it must not crash, hang or run."""
    del folder
    return ""


def plan(arguments: Sequence[str], folder: Path) -> int:
    """Build the plan of ``run`` from its options, and report as the command line does."""
    given = dict(zip(arguments[::2], (a.replace("{}", str(folder)) for a in arguments[1::2]), strict=True))
    crossing = Crossing(
        models=(given["--model"],),
        attacks=("fgsm",),
        dataset=given["--dataset"],
        checkpoints=(Path(given["--checkpoint"]),) if "--checkpoint" in given else (),
        roi_size=given.get("--roi-size"),
        cases="all",
        split="all",
    )

    def build() -> int:
        LAST["plan"] = build_plan(crossing, Computing(device="cpu"), folder / "results")
        return 0

    return reported(build)


def rescoring(file: str) -> Callable[[Path], int]:
    """Read a saved volume as ``--adversarial`` does."""

    def call(folder: Path) -> int:
        crossing = Crossing(
            adversarial=folder / file.rpartition("/")[0],
            targets=("unet",),
            checkpoints=(folder / "own.safetensors",),
            dataset=str(folder),
        )

        def build() -> int:
            from robustvox.datasets.verify import CASE_FAILURES

            made = build_plan(crossing, Computing(device="cpu"), folder / "results")
            bench = Bench(made)
            for saved in made.saved:
                case = bench.case(saved.note.case)
                try:
                    LAST["image"] = saved.load(case.volume, case.sha256)
                except CASE_FAILURES:
                    return 1
            return 1 if made.refused else 0

        return reported(build)

    return call


# --- lists -----------------------------------------------------------------------------------------


def listed(file: str) -> Callable[[Path], str]:
    """Class names are the texts of the document in the order of its ids, whichever way it writes them."""

    def check(folder: Path) -> str:
        if file == "cohort.json" and not (folder / file).exists():
            # A table needs none: its classes are counted.
            named = open_dataset(folder / "cohort.csv").class_names[1:]
            return "" if all(name.startswith("class_") for name in named) else f"{named} without a side file"
        document = _document(folder / file)
        labels = document.get("labels") if isinstance(document, dict) else None
        if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
            return "" if not isinstance(labels, dict) else f"labels {str(labels)[:80]} were taken"
        path = folder if file == "dataset.json" else folder / file.replace("cohort.json", "cohort.csv")
        names = open_dataset(path).class_names
        expected = tuple(labels[str(k)] for k in range(len(labels)))
        return "" if tuple(names) == expected or "ignore" in labels.values() else f"{names} for {expected}"

    return check


def folds(folder: Path) -> str:
    """Fold 0 of the file is the split, and every case is a text."""
    document = _document(folder / "splits_final.json")
    dataset = open_dataset(folder)
    fold = document[0]
    if not all(isinstance(case, str) for part in ("train", "val") for case in fold[part]):
        return "cases that are no texts were taken"
    once = list(dict.fromkeys(fold["val"]))
    return "" if list(dataset.splits["validation"]) == once else "another validation split"


def _document(path: Path) -> Any:
    content = path.read_bytes()
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        try:
            return json.loads(content.decode(codec))
        except (ValueError, RecursionError):
            continue
    return None


# --- volumes ---------------------------------------------------------------------------------------

KINDS = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}


def nifti(content: bytes) -> tuple[np.ndarray, tuple[float, ...]] | None:
    """Scaled voxels and their sides of a NIfTI-1 file, by the standard's byte offsets; None for what it is not."""
    order = next((o for o in "<>" if struct.unpack_from(f"{o}i", content)[0] == 348), None)
    if order is None or content[344:348] != b"n+1\0":
        return None
    rank, *dims = struct.unpack_from(f"{order}8h", content, 40)
    if not 1 <= rank <= 7 or any(side < 1 for side in dims[:rank]):
        return None
    kind, bits = struct.unpack_from(f"{order}2h", content, 70)
    offset, slope, inter = struct.unpack_from(f"{order}3f", content, 108)
    if kind not in KINDS or np.dtype(KINDS[kind]).itemsize * 8 != bits or not 352 <= offset < len(content):
        return None
    shape = tuple(dims[:rank])
    voxels = np.frombuffer(content, order + KINDS[kind], math.prod(shape), int(offset)).reshape(
        shape, order="F"
    )
    # A slope of 0 means that nothing is scaled, and so does NaN by convention.
    scaled = (
        voxels.astype(np.float64)
        if slope == 0 or math.isnan(slope)
        else voxels.astype(np.float64) * slope + inter
    )
    sform = struct.unpack_from(f"{order}h", content, 254)[0]
    rows = np.array(struct.unpack_from(f"{order}12f", content, 280)).reshape(3, 4)
    pixdim = struct.unpack_from(f"{order}8f", content, 76)
    unit = {1: 1000.0, 3: 1e-3}.get(content[123] & 7, 1.0)
    sides = np.linalg.norm(rows[:, :3], axis=0) if sform > 0 else np.abs(pixdim[1:4])
    return scaled, tuple(float(side) * unit for side in sides)


def volume(file: str) -> Callable[[Path], str]:
    """Intensities and spacing of an accepted case are those that the bytes of its file say."""

    def check(folder: Path) -> str:
        return _compare(folder, (folder / file).read_bytes())

    return check


def unchanged_volume(original: Path) -> Callable[[Path], str]:
    """A compressed file that is accepted has the voxels it was made of."""
    content = gzip.decompress(original.read_bytes())
    return lambda folder: _compare(folder, content)


def _compare(folder: Path, content: bytes) -> str:
    case = open_dataset(folder).read("case_001")  # type: ignore[attr-defined]
    expected = nifti(content)
    if expected is None:
        return "a file was read that is no NIfTI-1 file of real voxels"
    voxels, sides = expected
    wanted = voxels.reshape(case.image.shape[1:]).astype(np.float32)
    if not np.allclose(case.image[0], wanted, rtol=1e-5, atol=1e-5, equal_nan=True):
        return f"other voxels, by up to {np.abs(case.image[0] - wanted).max():g}"
    if not np.allclose(case.spacing_mm, sides, rtol=1e-4):
        return f"spacing {case.spacing_mm} for {sides}"
    return ""


def unchanged_saved(original: Path) -> Callable[[Path], str]:
    """A saved volume that is accepted is the one that was saved."""
    content = gzip.decompress(original.read_bytes())
    offset = int(struct.unpack_from("<f", content, 108)[0])
    voxels = np.frombuffer(content, "<f4", offset=offset)

    def check(folder: Path) -> str:
        del folder
        image = LAST.get("image")
        if image is None:
            return ""
        return "" if np.array_equal(np.sort(image.ravel()), np.sort(voxels)) else "other voxels"

    return check


def unlocked(digest: bytes) -> Callable[[Path], str]:
    """What was unlocked is the original file."""

    def check(folder: Path) -> str:
        for path in (folder / "out").glob("*"):
            if hashlib.sha256(gzip.decompress(path.read_bytes())).digest() != digest:
                return f"{path.name} is not the original"
        return ""

    return check


# --- models ----------------------------------------------------------------------------------------


def _loaded() -> Mapping[str, torch.Tensor]:
    module = LAST["plan"].surrogates[0].predictor
    return {k.removeprefix("network."): v for k, v in module.state_dict().items()}


def _same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    values = [v.double() for v in found.values()]
    expected = [v.double() for v in wanted.values()]
    same = len(values) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)  # half precision may say the same
        for a, b in zip(values, expected, strict=True)
    )
    return "" if same else "other weights"


def state(wanted: Mapping[str, torch.Tensor]) -> Callable[[Path], str]:
    """Weights that are accepted are those that were saved."""
    return lambda folder: _same(_loaded(), wanted)


def torch_state(file: str) -> Callable[[Path], str]:
    """Weights are what PyTorch itself reads from the file."""

    def check(folder: Path) -> str:
        content = torch.load(folder / file, weights_only=True)["model_state_dict"]
        return _same(_loaded(), {k.removeprefix("module."): v for k, v in content.items()})

    return check


def safetensors_state(file: str) -> Callable[[Path], str]:
    """Weights are those that the bytes of the file say, by the offsets of its header."""

    def check(folder: Path) -> str:
        content = (folder / file).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        header.pop("__metadata__", None)
        wanted = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            kind = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}.get(entry["dtype"])
            if kind is None:
                return f"weights of type {entry['dtype']} were taken"
            values = np.frombuffer(content[8 + size + start : 8 + size + end], kind).reshape(entry["shape"])
            wanted[name] = torch.from_numpy(values.copy())
        found = {k: v for k, v in _loaded().items() if k in wanted}
        return (
            _same(found, {k: wanted[k] for k in found})
            if len(found) == len(wanted)
            else "weights by other names"
        )

    return check


def card(file: str) -> Callable[[Path], str]:
    """A card that is accepted has none of the data's classes at another place, and a Dice that is one."""

    def check(folder: Path) -> str:
        content = (folder / file).read_bytes()
        size = int.from_bytes(content[:8], "little")
        told = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["card"])
        names = list(open_dataset(folder).class_names)
        theirs = told["class_names"]
        if any(name in names and names.index(name) != index for index, name in enumerate(theirs)):
            return f"classes {told['class_names']} for {names}"
        dice = told.get("validation_dice")
        good = dice is None or (
            isinstance(dice, int | float) and not isinstance(dice, bool) and 0 <= dice <= 1
        )
        return "" if good else f"validation Dice {dice}"

    return check


def plans(folder: Path) -> str:
    """A plan that is accepted divides by positive deviations and resamples to positive sides."""
    document = json.loads((folder / "trained" / "plans.json").read_bytes())
    found = document["foreground_intensity_properties_per_channel"]["0"]
    numbers = [found[k] for k in ("mean", "std", "percentile_00_5", "percentile_99_5")]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        return f"intensities {numbers}"
    if not found["std"] > 0 or not found["percentile_99_5"] > found["percentile_00_5"]:
        return f"a standard deviation of {found['std']} or percentiles {numbers[2:]}"
    spacing = document["configurations"]["3d_fullres"]["spacing"]
    return "" if all(type(s) in (int, float) and 0 < s < math.inf for s in spacing) else f"spacing {spacing}"


# --- records ---------------------------------------------------------------------------------------


def records(folder: Path) -> str:
    """Scores that are believed lie where scores can lie."""
    return _in_range(folder / "results" / "toy" / "records")


def recorded(folder: Path) -> str:
    """The same of records that a run wrote."""
    return _in_range(folder / "results" / "recorded" / "records")


def _in_range(root: Path) -> str:
    loaded = load_records(root)
    for name, low, high in (("dice", 0, 1), ("nsd", 0, 1), ("hd95_mm", 0, math.inf)):
        values = loaded.scores[name].dropna()
        if not ((values >= low) & (values <= high)).all():
            return f"a {name} outside of its range"
    for name in ("linf", "l2", "forwards", "backwards", "seconds"):
        if (loaded.costs[name].dropna() < 0).any():
            return f"a negative {name}"
    return ""
