"""The experiment: a victim, thefts of it, what they are worth, and what they do to it.

Finished work is on disk after every piece; the same call continues where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.attacks import ATTACKS, Attack
from robustvox.datasets import Dataset, Volume
from robustvox.datasets.scanner import ScannerShift
from robustvox.models import Checkpoint, SlidingWindow, load_checkpoint, read_card
from robustvox.models.filtered import Filtered

from ...plan.attacks import attack_spec
from ...specs.spec import Spec
from ...training.recipe import Recipe
from ...training.train import train
from .agreement import foreground_dice
from .calibration import Calibration, PowerCalibration
from .cast import Cast, Part, cast_roles, trained_on
from .copies import Copy, load_copy, save_copy, train_on_truth
from .port import QueryPort
from .rows import FunctionRow, Rows, TransferRow
from .scans import Scan, texture_phantoms
from .thefts import NOISE, Theft, thefts
from .thief import Steal

VICTIM = "victim"
WHITE_BOX = "white box"
OnWork = Callable[[str, int, int], None]
"""Called with what is being done, how many pieces are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What decides the experiment.

    Args:
        model: spec of the victim.
        shift: scanner B.
        steal: the plain thief; its seed is replaced by each of ``seeds``.
        seeds: one theft of each kind per seed.
        victim_cases: how many cases of the training split the victim is trained on.
        victim_steps: optimizer steps of the victim.
        checkpoint: a trained victim in place of training one.
        pool, reference, test: how many patients of the thief, how many public volumes, how many to measure on.
        curve: smaller budgets.
        eps: radii of the attacks.
        attack_steps: of ``pgd`` and ``smooth``.
        others: zoo checkpoints ``NAME`` of other architectures, trained on true labels, as surrogates.
        roi_size: window of victim and copy; None is the dataset's.
        full: also the thefts that answer finer questions, see :func:`.thefts.thefts`.

    Raises:
        ValueError: if the thief has fewer patients than queries.
    """

    model: str = "unet:num_res_units=0,size=small"
    shift: ScannerShift = field(default_factory=lambda: ScannerShift(edge=6.0))
    steal: Steal = field(default_factory=Steal)
    seeds: tuple[int, ...] = (0,)
    victim_cases: int = 100
    victim_steps: int = 400
    checkpoint: Path | None = None
    pool: int = 60
    reference: int = 5
    test: int = 12
    curve: tuple[int, ...] = (10, 19)
    eps: tuple[float, ...] = (8 / 255, 16 / 255)
    attack_steps: int = 10
    others: tuple[str, ...] = ("segresnet",)
    roi_size: tuple[int, ...] | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if self.steal.budget > self.pool:
            raise ValueError(
                f"expected --pool of at least the {self.steal.budget} queries, got {self.pool} patients; no volume is "
                "asked twice"
            )


class Bench:
    """The study on one dataset, with its files in one folder.

    Args:
        study: what to do.
        dataset: with patients enough for all roles.
        folder: of results and checkpoints.
        zoo: folder of ``NAME.safetensors`` for ``Study.others``.
        device: where networks run.
        on_work: called before every piece of work.

    Raises:
        ValueError: too few patients, a victim that does not fit, or files of another study in the folder.
    """

    def __init__(
        self,
        study: Study,
        dataset: Dataset,
        folder: Path,
        *,
        zoo: Path,
        device: str = "cpu",
        on_work: OnWork | None = None,
    ) -> None:
        self.study, self.dataset, self.folder, self.zoo, self.device = study, dataset, folder, zoo, device
        self.roi_size = tuple(study.roi_size or dataset.roi_size)
        self.function = Rows(folder / "function_cases.csv", FunctionRow)
        self.transfer = Rows(folder / "transfer_cases.csv", TransferRow)
        self._on_work = on_work
        self._done, self._all = 0, 0
        self._scans: dict[int, tuple[list[Scan], list[Scan]]] = {}
        # Read once, so that files of another study are refused before hours of work.
        self.function.read(), self.transfer.read()

    def run(self) -> None:
        """Do everything that is not on disk yet."""
        plain = replace(self.study.steal, num_classes=len(self.dataset.class_names), roi_size=self.roi_size)
        work = [
            (seed, theft)
            for seed in self.study.seeds
            for theft in thefts(replace(plain, seed=seed), self.study.curve, full=self.study.full)
        ]
        # Victim, its rows and the other surrogates are one piece each.
        self._all = 3 + len(work)
        self._tell("victim")
        self.victim  # noqa: B018 - trained here
        self._refuse_others(work)
        self._tell("what the victim does on scanner B")
        for seed in self.study.seeds:
            self.measure_victim(seed)
        self._tell("attacks on the victim, on other networks, and noise")
        self.attack_others(self.study.seeds[0])
        for seed, theft in work:
            self._tell(f"seed {seed}: {theft.name}")
            copy = self.copy(seed, theft)
            self.measure_copy(seed, theft, copy)
            self.attack_copy(seed, theft, copy)

    def _refuse_others(self, work: Sequence[tuple[int, Theft]]) -> None:
        """Rows of another experiment in the folder would be averaged with these."""
        planned = {(seed, theft.name): theft.spec for seed, theft in work}
        function, transfer = self.function.read(), self.transfer.read()
        found = [
            *zip(
                function["seed"],
                function["subject"],
                function["spec"],
                function["victim_sha256"],
                strict=True,
            ),
            *zip(
                transfer["seed"],
                transfer["surrogate"],
                transfer["spec"],
                transfer["victim_sha256"],
                strict=True,
            ),
        ]
        others = {
            row
            for seed, row, spec, sha256 in found
            if planned.get((seed, row), spec) != spec or sha256 != self.victim.sha256
        }
        known = {case for case in function["case"]} | {case for case in transfer["case"]}
        if others or not known <= {volume.id for volume in self.test}:
            what = f"rows of {sorted(others)[0]}" if others else "other test patients"
            raise ValueError(
                f"expected results of this experiment in {self.folder}, found {what} with other parameters; "
                "give another --out or remove the folder"
            )

    # --- who and what -------------------------------------------------------------------------------

    @cached_property
    def victim_cases(self) -> int | tuple[str, ...]:
        """How many cases the victim shall be trained on, or which ones it was."""
        if self.study.checkpoint is not None:
            return trained_on(read_card(self.study.checkpoint), self.dataset)
        return self.study.victim_cases

    def cast(self, seed: int) -> Cast:
        """Roles of the patients; the victim's are those of the first seed."""
        study = self.study
        first = cast_roles(
            self.dataset,
            pool=study.pool,
            reference=study.reference,
            test=study.test,
            victim=self.victim_cases,
            seed=study.seeds[0],
        )
        if seed == study.seeds[0]:
            return first
        return cast_roles(
            self.dataset,
            pool=study.pool,
            reference=study.reference,
            test=study.test,
            victim=first.victim,
            seed=seed,
        )

    @cached_property
    def victim(self) -> Checkpoint:
        """The victim: given, or found in the folder, or trained."""
        study = self.study
        cast = self.cast(study.seeds[0])
        spec, recipe = Spec.parse(study.model), Recipe(steps=study.victim_steps)
        path = study.checkpoint or self.folder / "victim.safetensors"
        if study.checkpoint is None and not path.exists():
            part = Part(self.dataset, cast.victim, cast.test, self.roi_size)
            train(spec, part, path=path, recipe=recipe, seed=study.seeds[0], device=self.device)
        loaded = load_checkpoint(path, architecture=spec.name)
        card = loaded.card
        if set(trained_on(card, self.dataset)) != set(cast.victim) or (
            study.checkpoint is None and card.recipe.get("steps") != recipe.steps
        ):
            raise ValueError(
                f"expected a victim trained on {len(cast.victim)} cases in {study.victim_steps} steps, found another "
                f"in {path}; remove the file or give it as --checkpoint"
            )
        if card.num_classes != len(self.dataset.class_names) or card.in_channels != self.dataset.in_channels:
            raise ValueError(
                f"expected a victim for {self.dataset.name}, found one trained on {card.dataset} in {path}"
            )
        loaded.network.to(self.device).requires_grad_(False)
        return loaded

    @cached_property
    def deployed(self) -> nn.Module:
        """The victim on whole volumes."""
        return SlidingWindow(self.victim.network, self.victim.card.roi_size, sw_batch_size=4).eval()

    @cached_property
    def test(self) -> list[Volume]:
        return [self.dataset.load(case) for case in self.cast(self.study.seeds[0]).test]

    @cached_property
    def answers_on_a(self) -> list[np.ndarray]:
        """The victim's labels of the test patients on scanner A: what a copy should say of them."""
        return [self.labels(self.deployed, self.tensor(volume)) for volume in self.test]

    def tensor(self, volume: Volume) -> Tensor:
        return torch.from_numpy(volume.image)[None].to(self.device)

    def labels(self, predictor: nn.Module, images: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return predictor(images.clamp(0, 1)).argmax(1)[0].cpu().numpy()

    def thief_scans(self, seed: int) -> tuple[list[Scan], list[Scan]]:
        """The thief's volumes of scanner B, and the public ones of scanner A."""
        if seed not in self._scans:
            cast = self.cast(seed)
            own = [Scan.of(self.study.shift.scan(self.dataset.load(case))) for case in cast.pool]
            # One seed at a time stays in memory.
            self._scans = {seed: (own, [Scan.of(self.dataset.load(case)) for case in cast.reference])}
        return self._scans[seed]

    def phantoms(self) -> tuple[list[Scan], list[Scan]]:
        """Texture objects on both scanners, of the size of the first test patient."""
        like = self.test[0]
        on_a = texture_phantoms(4, like.label.shape, like.spacing_mm)
        shift = self.study.shift
        return on_a, [Scan(s.id, shift(s.image, s.spacing_mm, s.id), s.spacing_mm) for s in on_a]

    # --- function -----------------------------------------------------------------------------------

    def measure_victim(self, seed: int) -> None:
        """Victim on A, on raw B, on calibrated B, and what its customers get where the vendor adds noise."""
        own, reference = self.thief_scans(seed)
        fitted = {
            "calibrated B": PowerCalibration().fit(reference, own),
            "calibrated B (phantom)": PowerCalibration().fit(*self.phantoms()),
        }
        views: dict[str, Callable[[Volume], np.ndarray]] = {
            f"{VICTIM} on A": lambda v: self.labels(self.deployed, self.tensor(v)),
            f"{VICTIM} on raw B": lambda v: self.labels(self.deployed, self.scanned(v, None)),
        }
        for name, calibration in fitted.items():
            views[f"{VICTIM} on {name}"] = lambda v, c=calibration: self.labels(
                self.deployed, self.scanned(v, c)
            )
        noisy = QueryPort(self.deployed, budget=self.study.test, noise=NOISE)
        views[f"{VICTIM} on A, logit noise {NOISE:g}"] = lambda v: noisy(self.tensor(v))[0, 0].cpu().numpy()
        for subject, view in views.items():
            self._measure(seed, subject, "victim", 0, view)

    def measure_copy(self, seed: int, theft: Theft, copy: Copy) -> None:
        """A copy on scanner B: behind the thief's calibration, or on raw volumes where it learned those."""
        calibration = copy.calibration if theft.steal.domain == "cal" else None
        predictor = copy.predictor()
        self._measure(
            seed,
            theft.name,
            theft.spec,
            copy.queries,
            lambda v: self.labels(predictor, self.scanned(v, calibration)),
        )

    def scanned(self, volume: Volume, calibration: Calibration | None) -> Tensor:
        """``(1, C, *spatial)`` of a patient of A on scanner B, calibrated back or raw."""
        images = self.tensor(self.study.shift.scan(volume))
        return images if calibration is None else calibration.to_a(images, volume.spacing_mm).clamp(0, 1)

    def _measure(
        self, seed: int, subject: str, spec: str, queries: int, view: Callable[[Volume], np.ndarray]
    ) -> None:
        same = {
            "victim_sha256": self.victim.sha256,
            "shift": str(self.study.shift),
            "seed": seed,
            "subject": subject,
            "spec": spec,
        }
        if self.function.has([v.id for v in self.test], **same):
            return
        classes = len(self.dataset.class_names)
        rows = []
        for volume, victim in zip(self.test, self.answers_on_a, strict=True):
            found = view(volume)
            rows.append(
                FunctionRow(
                    **same,
                    queries=queries,
                    case=volume.id,
                    dice=foreground_dice(found, volume.label, classes),
                    agreement=foreground_dice(found, victim, classes),
                    empty=not found.any(),
                )
            )
        self.function.add(rows)

    def copy(self, seed: int, theft: Theft) -> Copy:
        """The copy from the folder, or stolen now."""
        name = hashlib.sha256(f"{theft.spec}|{self.study.shift}|{self.victim.sha256}".encode()).hexdigest()[
            :12
        ]
        path = self.folder / "copies" / f"seed{seed}_{name}.safetensors"
        own, reference = self.thief_scans(seed)
        patients = " ".join(scan.id for scan in own)
        if path.exists():
            return load_copy(path, self.device, patients=patients)
        if theft.truth:
            labels = {case: self.dataset.load(case).label for case in self.cast(seed).pool}
            stolen = train_on_truth(theft.steal, own, reference, labels, device=self.device)
        else:
            port = QueryPort(self.deployed, budget=theft.steal.budget, seed=seed, **theft.port)
            phantoms = self.phantoms() if theft.steal.calibration == "phantom" else None
            stolen = theft.steal(port, own, reference, phantoms=phantoms, device=self.device)
        save_copy(
            path,
            stolen,
            theft.steal,
            self.dataset,
            provenance={
                "victim_sha256": self.victim.sha256,
                "shift": str(self.study.shift),
                "theft": theft.spec,
                "patients": patients,
            },
        )
        # What is measured is what is in the file, in its precision.
        return load_copy(path, self.device, patients=patients)

    # --- transfer -----------------------------------------------------------------------------------

    def attacks(self, names: Sequence[str]) -> Iterator[tuple[float, Attack, str]]:
        for eps in self.study.eps:
            for name in names:
                more = {"steps": self.study.attack_steps} if name in ("pgd", "smooth") else {}
                attack = ATTACKS[name](
                    **({"eps": eps, "corners": True} if name == "uniform" else {"eps": eps, **more})
                )
                yield eps, attack, attack_spec(name, attack)

    def attack_others(self, seed: int) -> None:
        """The victim itself, networks trained on the truth, and noise as controls."""
        everything = ("pgd", "smooth")
        self._attack(seed, WHITE_BOX, self.victim.sha256, lambda _: self.deployed, everything)
        for name in self.study.others:
            path = self.zoo / f"{name}.safetensors"
            loaded = load_checkpoint(path, architecture=name)
            network = loaded.network.to(self.device).requires_grad_(False)
            predictor = SlidingWindow(network, loaded.card.roi_size).eval()
            self._attack(
                seed, f"independent, {name}, true labels", loaded.sha256, lambda _, p=predictor: p, everything
            )
        self._attack(seed, "sign noise", "none", lambda _: self.deployed, ("uniform",))
        self._attack(seed, "smoothed sign noise", "none", lambda _: self.deployed, ("smooth_noise",))

    def attack_copy(self, seed: int, theft: Theft, copy: Copy) -> None:
        """The victim under volumes that were made on the copy."""
        predictor = copy.predictor()

        def surrogate(volume: Volume) -> nn.Module:
            if theft.steal.domain == "cal" or copy.calibration is None:
                return predictor
            return Filtered(predictor, copy.calibration.filter_to_b(volume.spacing_mm)).to(self.device).eval()

        self._attack(seed, theft.name, theft.spec, surrogate, theft.attacks)

    def _attack(
        self,
        seed: int,
        surrogate: str,
        spec: str,
        model: Callable[[Volume], nn.Module],
        names: Sequence[str],
    ) -> None:
        classes = len(self.dataset.class_names)
        for eps, attack, written in self.attacks(names):
            same = {
                "victim_sha256": self.victim.sha256,
                "seed": seed,
                "surrogate": surrogate,
                "spec": spec,
                "attack": written,
                "eps": eps,
            }
            if self.transfer.has([v.id for v in self.test], **same):
                continue
            rows = []
            for volume, clean in zip(self.test, self.answers_on_a, strict=True):
                images = self.tensor(volume)
                truth = torch.from_numpy(volume.label.astype(np.int64))[None, None].to(self.device)
                generator = torch.Generator().manual_seed(_seed(seed, volume.id))
                moved = attack(model(volume), images, truth, generator=generator)
                change = (moved - images).double()
                rows.append(
                    TransferRow(
                        **same,
                        case=volume.id,
                        dice_clean=foreground_dice(clean, volume.label, classes),
                        dice_adv=foreground_dice(self.labels(self.deployed, moved), volume.label, classes),
                        linf=float(change.abs().max()),
                        l2=float(change.square().sum().sqrt()),
                    )
                )
            self.transfer.add(rows)

    def _tell(self, what: str) -> None:
        if self._on_work is not None:
            self._on_work(what, self._done, self._all)
        self._done += 1


def _seed(seed: int, case: str) -> int:
    """A stream of its own for every patient, whatever the order."""
    return int.from_bytes(hashlib.sha256(f"steal:{seed}:{case}".encode()).digest()[:7], "big")
