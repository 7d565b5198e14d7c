"""The study of marks on one case: what they do to models, what takes them off, what they cost.

A view is what a model gets to see: the marked volume, the one unlocked with the key, or what somebody without the
key made of the marked one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from robustvox.attacks import Key
from robustvox.datasets import Dataset, Volume

from ...craft.named import NamedModel, predict
from ...harness.scoring import Scorer
from ...metrics.distortion import measure
from ...plan.attacks import attack_spec
from ...records.seal import Terms, WrongKey, seal_array, unlock_array
from ...specs.protocols import Protocol
from .attackers import Attacker
from .marks import SALT, StudiedMark, make_mark, owner_key
from .removers import REMOVERS

OWN_FIELD = "wrong key, own field"
OTHER_FIELD = "wrong key, field of the original"


@dataclass(frozen=True)
class MarkBench:
    """Everything the study crosses."""

    dataset: Dataset
    protocol: Protocol
    cases: Sequence[str]
    marks: Sequence[StudiedMark]
    targets: Sequence[NamedModel]
    attackers: Sequence[Attacker]
    seeds: int
    device: str

    @cached_property
    def identity(self) -> str:
        """What the rows depend on, as eight digits: rows of another identity are replaced."""
        facts = [
            [(m.name, attack_spec("keyed_mark", m.attack), m.made_on, m.thorough) for m in self.marks],
            [(m.name, m.sha256) for m in self.targets],
            [(a.view, a.identity) for a in self.attackers],
            [self.protocol.name, self.seeds, list(REMOVERS)],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def study_case(bench: MarkBench, case: str) -> Iterator[dict[str, Any]]:
    """A row per mark, seed, view and model of one case."""
    volume = bench.dataset.load(case)
    scores = _Scores(bench, volume)
    for mark in bench.marks:
        # With three keys, the field of the next one is the field of another key on the same original.
        marked = [
            make_mark(mark, volume, volume.image, volume.label, owner_key(seed), bench.device)
            for seed in range(bench.seeds)
        ]
        for seed, mine in enumerate(marked):
            seal, unlocked = _seal(volume, mine.image, mark, seed)
            facts = {
                "study": bench.identity,
                "dataset": bench.dataset.name,
                "case": case,
                "seed": seed,
                "mark": mark.name,
                "made_on": mark.made_on,
                "label_changed": _label_changed(volume, mine.image),
                "seal_bytes": len(seal),
                "seconds": mine.seconds,
            }
            seen = {"marked": mine.image, "authorised": unlocked, **_removed(bench, mine.image)}
            if mark.thorough:
                other = marked[(seed + 1) % bench.seeds].image
                seen |= _wrong_keys(bench, mark, volume, mine.image, other, seed)
            for view, image in seen.items():
                yield from scores.rows(facts, view, image, mark)


def _seal(volume: Volume, marked: np.ndarray, mark: StudiedMark, seed: int) -> tuple[bytes, np.ndarray]:
    """The seal of a marked image, and the image it gives back; refusals are checked on the way.

    Raises:
        RuntimeError: if the original did not come back bit for bit, or another key opened the seal.
    """
    name = f"{volume.id} {mark.name} {seed}"
    terms = Terms(salt=SALT, nonce=hashlib.sha256(name.encode()).digest()[:16])
    key = owner_key(seed)
    seal = seal_array(volume.image, marked, key=key, case=volume.id, terms=terms)
    unlocked = unlock_array(marked, seal, key=key)
    if unlocked.tobytes() != volume.image.tobytes():
        raise RuntimeError(
            f"{name}: expected the original bit for bit, got another volume; report this defect"
        )
    try:
        unlock_array(marked, seal, key=owner_key(seed + 1))
    except WrongKey:
        return seal, unlocked
    raise RuntimeError(f"{name}: expected another key to be refused, got a volume; report this defect")


def _removed(bench: MarkBench, image: np.ndarray) -> dict[str, np.ndarray]:
    """The image after every remover. Noise has one seed: the clean image gets the same."""
    views = {name: remover(image, 0) for name, remover in REMOVERS.items()}
    return views | {attacker.view: attacker.remover.remove(image) for attacker in bench.attackers}


def _wrong_keys(
    bench: MarkBench, mark: StudiedMark, volume: Volume, marked: np.ndarray, other: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """What subtracting the field of another key leaves.

    Somebody who has only the marked volume makes a field of his own on it, with what the model predicts there. The
    field of another key on the original itself nobody has who needs it; it tells how much of the field the key decides.
    """
    stranger = Key(f"robustvox study of marks, stranger {seed}".encode())
    own = make_mark(mark, volume, marked, None, stranger, bench.device).image
    fields = {OWN_FIELD: own - marked, OTHER_FIELD: other - volume.image}
    return {view: np.clip(marked - change, 0, 1).astype(np.float32) for view, change in fields.items()}


def _label_changed(volume: Volume, marked: np.ndarray) -> float:
    """Share of label voxels that the mark changed in any channel; 0 without a label."""
    labeled = volume.label > 0
    changed = (marked != volume.image).any(0)
    return float(changed[labeled].mean()) if labeled.any() else 0.0


class _Scores:
    """Dice of one case; what the removers do to the clean image is computed once."""

    def __init__(self, bench: MarkBench, volume: Volume) -> None:
        self._bench, self._volume = bench, volume
        self._score = Scorer(
            bench.protocol,
            volume,
            num_classes=len(bench.dataset.class_names),
            nsd_tolerance_mm=bench.dataset.nsd_tolerance_mm,
        )
        self._clean_views: Mapping[str, np.ndarray] = _removed(bench, volume.image)
        self._on_clean: dict[tuple[str, str], float] = {}

    def rows(
        self, facts: Mapping[str, Any], view: str, image: np.ndarray, mark: StudiedMark
    ) -> Iterator[dict[str, Any]]:
        """A row per model that this view is shown to: all, or the white box alone."""
        whole = mark.thorough or view in ("marked", "authorised")
        distance = asdict_of(measure(image, self._volume.image))
        for target in self._bench.targets if whole else mark.surrogates[:1]:
            yield {
                **facts,
                "view": view,
                "target": target.name,
                "dice_clean": self._clean(view, target),
                "dice": self._dice(image, target),
                **distance,
            }

    def _clean(self, view: str, target: NamedModel) -> float:
        """Dice of the same remover on the clean image, or of the clean image itself."""
        name = view if view in self._clean_views else ""
        if (name, target.name) not in self._on_clean:
            image = self._clean_views.get(name, self._volume.image)
            self._on_clean[name, target.name] = self._dice(image, target)
        return self._on_clean[name, target.name]

    def _dice(self, image: np.ndarray, target: NamedModel) -> float:
        prediction = predict(target, torch.from_numpy(image)[None].to(self._bench.device))
        dice: Any = self._score(prediction)["dice"]
        return float(dice.mean())


def asdict_of(distance: Any) -> dict[str, float]:
    """L-inf, PSNR and SSIM; the infinite PSNR of equal images becomes empty."""
    return {
        "linf": distance.linf,
        "psnr": distance.psnr if np.isfinite(distance.psnr) else float("nan"),
        "ssim": distance.ssim,
    }
