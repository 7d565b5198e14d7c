"""The ``mark`` command: a folder of volumes to a folder of marked volumes and their seals."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console, RenderableType
from torch import Tensor, nn

from robustvox.attacks.keyed_mark import KeyedMark, predicted_labels
from robustvox.attacks.keys import Key
from robustvox.datasets import CaseError, Dataset, Volume
from robustvox.datasets.geometry import axes_of, check_affine, check_right_angles, turn
from robustvox.datasets.nifti import RawCase, check_image, check_label, read_array, read_file, spatial

from ...craft.named import NamedAttack, NamedModel
from ...harness.faults import CASE_FAILURES, reason_of
from ...metrics.scores import score
from ...plan.attacks import load_attack
from ...plan.build import load_models
from ...plan.cases import load_dataset
from ...plan.models import choose_device
from ...records.marked_files import (
    StoredVolume,
    attach,
    case_name,
    changeable,
    detach,
    embed,
    only_turned,
    read_stored,
    seal_file,
)  # fmt: skip
from ...records.seal import CIPHERS, SealError, Terms, read_header
from ...records.writing import replace_file
from ...specs.names import printable
from ...specs.program import pasted
from ...specs.protocols import PROTOCOLS
from ...specs.requests import MarkRequest
from ...specs.spec import UsageError, match
from ...studies.marking.marks import as_labels, as_one
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress
from .fitted_table import fitted_table
from .unlock import SEAL, read_key, volumes_of

SEALS = ("sidecar", "extension")


@dataclass(frozen=True)
class Owner:
    """Who marks, and with what."""

    key: Key
    salt: bytes
    attack: NamedAttack
    models: tuple[NamedModel, ...]
    dataset: Dataset
    prepare: Callable[[RawCase], Volume]
    labels: Path | None
    extension: bool
    cipher: str
    device: str

    @property
    def note(self) -> dict[str, str]:
        """What a seal says in the clear about its mark."""
        made_on = {f"model {number}": f"{m.name} {m.sha256}" for number, m in enumerate(self.models)}
        return {"mark": self.attack.spec, "dataset": self.dataset.name, **made_on}


@dataclass(frozen=True)
class Marked:
    """What one file of the summary table says."""

    name: str
    dice_before: float
    dice_after: float
    changed: float
    seal_bytes: int
    seconds: float


def mark_folder(request: MarkRequest) -> int:
    """Mark every file of the folder; 0 when all are there, 1 when some were refused.

    Raises:
        UsageError: for any name, folder, file or combination that cannot be.
    """
    console = make_console()
    files = volumes_of(request.folder, request.marked)
    owner = _owner(request)
    done: list[Marked] = []
    refused, there = [], 0
    with progress("mark", len(files)) as bar:
        for path in files:
            try:
                if _is_marked(path, request.marked):
                    there += 1
                else:
                    done.append(_mark(path, request.marked, owner))
            except CASE_FAILURES as error:
                refused.append(f"{path.name}: {reason_of(error)}")
            bar.update(bar.task_ids[0], advance=1)
    if done:
        console.print(_table(console, done))
    for line in refused:
        console.print(f"[red]refused[/red] {escape(line)}", soft_wrap=True)
    counts = f"{len(done)} marked, {there} already there, {len(refused)} refused"
    console.print(f"{counts}; in {escape(str(request.marked))}", soft_wrap=True)
    return SOME_FAILED if refused else DONE


def _owner(request: MarkRequest) -> Owner:
    """Everything the request names, before a volume is read."""
    crossing = request.crossing
    if not crossing.models:
        raise UsageError(f"expected at least one --model to make the mark on; see `{pasted(['list'])}`")
    key = read_key(request.key_file)
    protocol = PROTOCOLS["robustvox-1"]
    attack = load_attack(request.mark, protocol)
    if not isinstance(attack.attack, KeyedMark):
        raise UsageError(f"expected --mark keyed_mark[:key=value,...], got {request.mark!r}")
    cipher = match(request.cipher, CIPHERS, "--cipher")
    try:
        Terms(cipher=cipher)
    except SealError as error:
        raise UsageError(str(error)) from None
    if request.labels is not None and not request.labels.is_dir():
        raise UsageError(f"expected a folder as --labels, found none at {request.labels}")
    dataset = load_dataset(crossing.dataset, crossing.data_root)
    prepare: Any = getattr(dataset, "prepare", None)
    if prepare is None:
        raise UsageError(
            f"expected a dataset that can prepare other files, got {dataset.name}; name another --dataset"
        )
    device = choose_device(request.computing.device)
    models = tuple(load_models(crossing, request.computing, dataset, protocol, device))
    clicked = [m.name for m in models if m.prompted is not None and m.prompted.recipe.kind == "click"]
    if clicked and request.labels is None:
        raise UsageError(
            f"expected --labels to click on for {clicked[0]}, got none; add them, or say prompts=click_pred"
        )
    return Owner(
        key=key,
        salt=secrets.token_bytes(16),
        attack=attack,
        models=models,
        dataset=dataset,
        prepare=prepare,
        labels=request.labels,
        extension=match(request.seal, SEALS, "--seal") == "extension",
        cipher=cipher,
        device=device,
    )


def _is_marked(path: Path, out: Path) -> bool:
    """Whether an earlier call has marked this file; half of a pair is refused, since a seal cannot be made again."""
    target, beside = out / path.name, out / (case_name(path) + SEAL)
    if target.exists():
        marked, inside = detach(read_stored(target))
        seal = inside if inside is not None else beside.read_bytes() if beside.is_file() else None
        if seal is None or read_header(seal).marked_sha256 != marked.digest.hex():
            raise SealError(
                f"expected no other file at {target.name} in the output folder, found one; choose another --out"
            )
        return True
    if beside.exists():
        raise SealError(
            f"expected {target.name} beside {beside.name} in the output folder, found the seal alone; it may be the only "
            "way back of a file that was moved: move it too, or choose another --out"
        )
    return False


def _mark(path: Path, out: Path, owner: Owner) -> Marked:
    """Mark one file and write it with its seal, the file last: what is there is complete."""
    started = time.perf_counter()
    case = case_name(path)
    original = read_stored(path)
    volume = _prepared(path, original, owner)
    if owner.labels is not None:
        volume = replace(volume, label=_labels(owner.labels, path, volume, owner))
    bound = [model.for_case(volume) for model in owner.models]
    surrogate = as_one(bound)
    images = torch.from_numpy(volume.image)[None].to(owner.device)
    given = owner.labels is not None
    labels = as_labels(volume.label, owner.device) if given else predicted_labels(surrogate, images)
    free = torch.from_numpy(changeable(original, volume))[None].to(owner.device)
    attack = owner.attack.attack.at_spacing(volume.spacing_mm)
    found = attack(
        Pinned(surrogate, images, free), images, labels, generator=owner.key.generator(owner.salt, case)
    )
    image = torch.where(free, found, images)[0].cpu().numpy()
    marked = embed(original, volume, image)
    terms = Terms(salt=owner.salt, cipher=owner.cipher, note=owner.note)
    seal = seal_file(original, marked, key=owner.key, case=case, terms=terms)
    whole = attach(marked, seal) if owner.extension else marked
    out.mkdir(parents=True, exist_ok=True)
    if not owner.extension:
        replace_file(out / (case + SEAL), seal, durable=True)
    whole.write(out / path.name)
    before = _dice(surrogate, images, labels, volume, owner)
    # As anybody will see it: read from the file, and mapped to [0, 1] by its own intensities.
    seen = _prepared(out / path.name, whole, owner)
    readers = as_one(
        [one if one.prompted else m.for_case(seen) for one, m in zip(bound, owner.models, strict=True)]
    )
    images = torch.from_numpy(seen.image)[None].to(owner.device)
    after = _dice(readers, images, labels, volume, owner)
    changed = float(np.mean(marked.voxels != original.voxels))
    return Marked(path.name, before, after, changed, len(seal), time.perf_counter() - started)


def _prepared(path: Path, stored: StoredVolume, owner: Owner) -> Volume:
    """The volume as networks see it, on the voxels of the file, which may be turned.

    Raises:
        CaseError: a damaged file, or a dataset that resamples, crops or pads it.
    """
    case = case_name(path)
    file = read_file(path, case)
    check_right_angles(file.grid, path.name, case)
    image = check_image(file.array, owner.dataset.in_channels, case)
    nothing = np.zeros(image.shape[1:], np.int16)
    volume = owner.prepare(RawCase(case, image, nothing, file.grid))
    if not only_turned(volume, image, file.grid.affine):
        raise CaseError(
            case,
            f"a file on the grid that {owner.dataset.name} is prepared on ({' x '.join(map(str, volume.image.shape[1:]))})",
            f"another ({' x '.join(map(str, image.shape[1:]))})",
            "resample and crop the file first; a mark cannot be carried back through that",
        )
    if stored.voxels.size != image.size:
        raise CaseError(case, f"{image.size} voxels", f"{stored.voxels.size}", "convert the file")
    return volume


def _labels(folder: Path, path: Path, volume: Volume, owner: Owner) -> np.ndarray:
    """The label of a file ``(*spatial)``, along the axes of the volume, from a folder of the same names."""
    found = [
        folder / name
        for name in (path.name, f"{volume.id}.nii.gz", f"{volume.id}.nii")
        if (folder / name).is_file()
    ]
    if not found:
        raise CaseError(volume.id, f"{path.name} in the folder of labels", "none", "add it, or drop --labels")
    array, affine, _ = read_array(found[0], volume.id)
    turned, affine = turn(spatial(array), affine, axes_of(volume.affine))
    check_affine(volume.affine, affine, volume.id)
    return check_label(turned, volume.image.shape[1:], len(owner.dataset.class_names), volume.id)


class Pinned(nn.Module):
    """A model that sees the original wherever the file cannot be changed, so that no attack counts on it.

    Args:
        model: maps images to logits.
        images: the original, ``(1, C, *spatial)``.
        free: ``(1, C, *spatial)`` bool, True where the file can be changed.
    """

    def __init__(self, model: nn.Module, images: Tensor, free: Tensor) -> None:
        super().__init__()
        self.model, self._images, self._free = model, images, free

    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.where(self._free, images, self._images.to(images.dtype)))


@torch.no_grad()
def _dice(model: nn.Module, images: Tensor, labels: Tensor, volume: Volume, owner: Owner) -> float:
    """Mean foreground Dice of what the surrogate predicts against the labels the mark was made with."""
    prediction = model(images).argmax(1)[0].cpu().numpy()
    table = score(
        prediction,
        labels[0, 0].cpu().numpy(),
        num_classes=len(owner.dataset.class_names),
        spacing_mm=volume.spacing_mm,
    )
    dice: Any = table["dice"]
    return float(dice.mean())


def _table(console: Console, done: list[Marked]) -> RenderableType:
    """A row per file: how far the surrogate is misled, and what it cost."""
    headings = ("file", "Dice before", "Dice marked", "voxels changed", "seal kB", "s")
    rows = [
        (
            printable(one.name),
            f"{one.dice_before:.3f}",
            f"{one.dice_after:.3f}",
            f"{100 * one.changed:.1f}%",
            f"{one.seal_bytes / 1000:.1f}",
            f"{one.seconds:.1f}",
        )
        for one in done
    ]
    return fitted_table(console, "", headings, rows)
