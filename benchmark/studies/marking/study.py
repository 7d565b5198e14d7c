"""The study of marks on one case: what they do to models, what takes them off, what they cost.

A view is what a model gets to see: the marked volume, the one unlocked with the key, or what somebody without the
key made of the marked one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
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
from .marks import SALT, MarkedCase, StudiedMark, make_mark, owner_key
from .removers import REMOVERS, gaussian


class Look(Enum):
    """What of a marked case is measured at once and written at once; its value ends the identity of the rows.

    The first look shows the marked and the unlocked volume to every model, and the removers to the white box. What
    costs more comes after: what was learned or guessed about the mark (trained removers, a stranger's own field) on
    every model, then the other removers on the other models.
    """

    FIRST = ""
    LEARNED = " second look"
    OTHERS = " third look"


OWN_FIELD = "wrong key, own field"
OTHER_FIELD = "another key's field of the original"
"""Nobody has it who needs it; it tells how much of a field the key decides."""


@dataclass(frozen=True, kw_only=True)
class MarkJob:
    """One look at one mark on one case with one key."""

    seed: int
    mark: StudiedMark
    case: str
    look: Look = Look.FIRST


@dataclass(frozen=True, eq=False)
class MarkBench:
    """Everything the study crosses, and the cases it has scored clean."""

    dataset: Dataset
    protocol: Protocol
    cases: Sequence[str]
    marks: Sequence[StudiedMark]
    targets: Sequence[NamedModel]
    attackers: Sequence[Attacker]
    seeds: int
    thorough: bool
    device: str
    _scores: dict[str, CleanScores] = field(default_factory=dict, init=False)
    _marked: dict[tuple[str, str, int], MarkedCase] = field(default_factory=dict, init=False)

    def jobs(self) -> Iterator[MarkJob]:
        """Seed by seed, so that every mark is there once before any is there twice; the later looks at the end."""
        for seed in range(self.seeds):
            for mark in self.marks:
                for case in self.cases:
                    yield MarkJob(seed=seed, mark=mark, case=case)
        for look in (Look.LEARNED, Look.OTHERS):
            for mark in self.marks:
                if mark.thorough and self.thorough and (look is Look.LEARNED or self.others(mark)):
                    for case in self.cases:
                        yield MarkJob(seed=0, mark=mark, case=case, look=look)

    def others(self, mark: StudiedMark) -> list[NamedModel]:
        """The models that a mark was not made on, its first surrogate being the white box."""
        return [target for target in self.targets if target.key != mark.surrogates[0].key]

    def identity(self, mark: StudiedMark, look: Look) -> str:
        """What the rows of a look at a mark depend on: rows of another identity are replaced."""
        facts = [
            [mark.name, attack_spec("keyed_mark", mark.attack), [m.sha256 for m in mark.surrogates]],
            [(m.name, m.sha256) for m in self.targets],
            [(a.view, a.identity) for a in self.attackers if look is Look.LEARNED],
            [look is not Look.FIRST, self.protocol.name, list(REMOVERS)],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8] + look.value

    def marked(self, mark: StudiedMark, volume: Volume, seed: int) -> MarkedCase:
        """The case as the owner marks it with the key of this number, made once."""
        name = (mark.name, volume.id, seed)
        if name not in self._marked:
            key = owner_key(seed)
            self._marked[name] = make_mark(mark, volume, volume.image, volume.label, key, self.device)
        return self._marked[name]

    def scores(self, case: str) -> CleanScores:
        """What removers and models make of the clean case, computed once."""
        if case not in self._scores:
            self._scores[case] = CleanScores(self, self.dataset.load(case))
        return self._scores[case]


def study_mark(bench: MarkBench, job: MarkJob) -> Iterator[dict[str, Any]]:
    """A row per view and model of one marked case, as :class:`Look` says."""
    mark, seed = job.mark, job.seed
    scores = bench.scores(job.case)
    volume = scores.volume
    marked = bench.marked(mark, volume, seed)
    seal, unlocked = _seal(volume, marked.image, mark, seed)
    facts = {
        "study": bench.identity(mark, job.look),
        "dataset": bench.dataset.name,
        "case": job.case,
        "seed": seed,
        "mark": mark.name,
        "made_on": mark.made_on,
        "label_changed": _label_changed(volume, marked.image),
        "seal_bytes": len(seal),
        "seconds": marked.seconds,
    }
    white = [mark.surrogates[0]]
    if job.look is Look.LEARNED:
        own = _without_own_field(bench, mark, volume, marked.image)
        seen = [(OWN_FIELD, own, bench.targets)]
        seen += [(view, image, bench.targets) for view, image in learned(bench, marked.image).items()]
    elif job.look is Look.OTHERS:
        seen = [(view, image, bench.others(mark)) for view, image in removed(marked.image).items()]
    else:
        seen = [("marked", marked.image, bench.targets), ("authorised", unlocked, bench.targets)]
        seen += [(view, image, white) for view, image in removed(marked.image).items()]
        if mark.thorough and seed == 1:
            other = _without(marked.image, bench.marked(mark, volume, 0).image, volume.image)
            seen.append((OTHER_FIELD, other, white))
    for view, image, targets in seen:
        distance = _distance(image, volume.image)
        for target in targets:
            dice = {"dice_clean": scores.clean(view, target), "dice": scores.dice(image, target)}
            yield {**facts, "view": view, "target": target.name, **dice, **distance}


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


def removed(image: np.ndarray) -> dict[str, np.ndarray]:
    """The image after every remover that needs no training. Noise has one seed: the clean image gets the same."""
    return {name: remover(image, 0) for name, remover in REMOVERS.items()}


def learned(bench: MarkBench, image: np.ndarray) -> dict[str, np.ndarray]:
    """The image after every remover that was trained."""
    return {attacker.view: attacker.remover.remove(image) for attacker in bench.attackers}


def _without_own_field(bench: MarkBench, mark: StudiedMark, volume: Volume, marked: np.ndarray) -> np.ndarray:
    """The best that another key was found to do: smooth the marked volume, mark that, subtract the field.

    A stranger knows how marks are made, and guesses that the field of a smoothed volume is near that of the original.
    """
    smoothed = gaussian(marked, sigma=1.0)
    stranger = Key(b"robustvox study of marks, a stranger")
    return _without(smoothed, make_mark(mark, volume, smoothed, None, stranger, bench.device).image, smoothed)


def _without(image: np.ndarray, marked: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """An image minus the field that turned another one from clean to marked."""
    return np.clip(image - (marked - clean), 0, 1).astype(np.float32)


def _label_changed(volume: Volume, marked: np.ndarray) -> float:
    """Share of label voxels that the mark changed in any channel; 0 without a label."""
    labeled = volume.label > 0
    changed = (marked != volume.image).any(0)
    return float(changed[labeled].mean()) if labeled.any() else 0.0


class CleanScores:
    """Dice of one case; what the removers do to the clean image is computed once."""

    def __init__(self, bench: MarkBench, volume: Volume) -> None:
        self.volume = volume
        self._device = bench.device
        self._score = Scorer(
            bench.protocol,
            volume,
            num_classes=len(bench.dataset.class_names),
            nsd_tolerance_mm=bench.dataset.nsd_tolerance_mm,
        )
        self._views: Mapping[str, np.ndarray] = removed(volume.image) | learned(bench, volume.image)
        self._on_clean: dict[tuple[str, str], float] = {}
        self._bound: dict[tuple[str, str], NamedModel] = {}

    def clean(self, view: str, target: NamedModel) -> float:
        """Dice of the same remover on the clean image, or of the clean image itself."""
        name = view if view in self._views else ""
        if (name, target.name) not in self._on_clean:
            image = self._views.get(name, self.volume.image)
            self._on_clean[name, target.name] = self.dice(image, target)
        return self._on_clean[name, target.name]

    def dice(self, image: np.ndarray, target: NamedModel) -> float:
        """Mean Dice over the scored classes of what a model predicts on an image ``(C, *spatial)``."""
        if target.key not in self._bound:
            self._bound[target.key] = target.for_case(self.volume)
        prediction = predict(self._bound[target.key], torch.from_numpy(image)[None].to(self._device))
        dice: Any = self._score(prediction)["dice"]
        return float(dice.mean())


def _distance(image: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """L-inf, PSNR and SSIM; the infinite PSNR of equal images becomes empty."""
    found = measure(image, clean)
    psnr = found.psnr if np.isfinite(found.psnr) else float("nan")
    return {"linf": found.linf, "psnr": psnr, "ssim": found.ssim}
