"""The experiment: a victim, thefts of it, what they are worth, and what they do to it.

Finished work is on disk after every piece; the same call continues where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from robustvox.attacks import ATTACKS, Attack
from robustvox.datasets import Volume
from robustvox.models import SlidingWindow, load_checkpoint
from robustvox.models.filtered import Filtered

from ...plan.attacks import attack_spec
from .agreement import foreground_dice
from .calibration import Calibration
from .copies import Copy
from .port import QueryPort
from .rows import FUNCTION_FILE, TRANSFER_FILE, FunctionRow, Rows, TransferRow
from .setting import Setting
from .thefts import COMPARED, NOISE, Theft, thefts

VICTIM = "victim"
WHITE_BOX = "white box"
OnWork = Callable[[str, int, int], None]
"""Called with what is being done, how many pieces are done, and how many there are."""


class Experiment:
    """Measures everything a study asks for, into two files of rows beside the setting's checkpoints.

    Args:
        setting: victim, patients and copies.
        zoo: folder of ``NAME.safetensors`` for ``Study.others``.
        on_work: called before every piece of work.

    Raises:
        ValueError: for files in the folder that are no rows of ours; when run, too few patients, a victim that does
            not fit, or rows of another experiment.
    """

    def __init__(self, setting: Setting, *, zoo: Path, on_work: OnWork | None = None) -> None:
        self.setting, self.study, self.zoo = setting, setting.study, zoo
        self.function = Rows(setting.folder / FUNCTION_FILE, FunctionRow)
        self.transfer = Rows(setting.folder / TRANSFER_FILE, TransferRow)
        self._on_work = on_work
        self._done, self._all = 0, 0
        self._calibrations: dict[int, dict[str, Calibration]] = {}
        # Read once, so that files of something else are refused before hours of work.
        self.function.read()
        self.transfer.read()

    def run(self) -> None:
        """Do everything that is not on disk yet."""
        plain = replace(
            self.study.steal,
            num_classes=len(self.setting.dataset.class_names),
            roi_size=self.setting.roi_size,
        )
        work = [
            (seed, theft)
            for seed in self.study.seeds
            for theft in thefts(replace(plain, seed=seed), self.study.curve, full=self.study.full)
        ]
        # What everything is compared with comes first, of every seed: a run that is stopped has said the most.
        work.sort(key=lambda item: item[1].name not in COMPARED)
        # Victim, its rows and the other surrogates are one piece each.
        self._all = 3 + len(work)
        self._tell("victim")
        self.setting.victim  # noqa: B018 - trained here
        self._refuse_others(work)
        self._tell("what the victim does on scanner B")
        for seed in self.study.seeds:
            self.measure_victim(seed)
        self.write_calibrations()
        compared = [item for item in work if item[1].name in COMPARED]
        for seed, theft in compared:
            self.steal(seed, theft)
        self._tell("attacks on the victim, on other networks, and noise")
        self.attack_others(self.study.seeds[0])
        for seed, theft in work[len(compared) :]:
            self.steal(seed, theft)

    def steal(self, seed: int, theft: Theft) -> None:
        """One theft with its rows. Where those are there, the copy behind them is not stolen again."""
        self._tell(f"seed {seed}: {theft.name}")
        if self._measured(seed, theft):
            return
        copy = self.setting.copy(seed, theft)
        self.measure_copy(seed, theft, copy)
        self.attack_copy(seed, theft, copy)

    def _measured(self, seed: int, theft: Theft) -> bool:
        cases = [volume.id for volume in self.setting.test]
        same = {"victim_sha256": self.setting.victim.sha256, "seed": seed, "spec": theft.spec}
        shift = str(self.study.shift)
        return self.function.has(cases, **same, subject=theft.name, shift=shift) and all(
            self.transfer.has(cases, **same, surrogate=theft.name, attack=written)
            for _, _, written in self.attacks(theft.attacks)
        )

    def _refuse_others(self, work: Sequence[tuple[int, Theft]]) -> None:
        """Rows of another experiment in the folder would be averaged with these."""
        planned = {(seed, theft.name): theft.spec for seed, theft in work}
        function, transfer = self.function.read(), self.transfer.read()
        others = {
            row
            for frame, subject in ((function, "subject"), (transfer, "surrogate"))
            for seed, row, spec, sha256 in frame[["seed", subject, "spec", "victim_sha256"]].itertuples(
                index=False
            )
            if planned.get((seed, row), spec) != spec or sha256 != self.setting.victim.sha256
        }
        known = {*function["case"], *transfer["case"]}
        if others or not known <= {volume.id for volume in self.setting.test}:
            what = f"rows of {sorted(others)[0]}" if others else "other test patients"
            raise ValueError(
                f"expected results of this experiment in {self.setting.folder}, found {what} with other parameters; "
                "give another --out or remove the folder"
            )

    # --- function -----------------------------------------------------------------------------------

    def measure_victim(self, seed: int) -> None:
        """Victim on A, on raw B, on calibrated B, and what its customers get where the vendor adds noise."""
        fitted = {
            "calibrated B": self.calibrations(seed)["population"],
            "calibrated B (phantom)": self.calibrations(seed)["phantom"],
        }
        views: dict[str, Callable[[Volume], np.ndarray]] = {
            f"{VICTIM} on A": lambda v: self.setting.labels(self.setting.deployed, self.setting.tensor(v)),
            f"{VICTIM} on raw B": lambda v: self.setting.labels(
                self.setting.deployed, self.setting.scanned(v, None)
            ),
        }
        for name, calibration in fitted.items():
            views[f"{VICTIM} on {name}"] = lambda v, c=calibration: self.setting.labels(
                self.setting.deployed, self.setting.scanned(v, c)
            )
        noisy = QueryPort(self.setting.deployed, budget=self.study.test, noise=NOISE)
        views[f"{VICTIM} on A, logit noise {NOISE:g}"] = lambda v: (
            noisy(self.setting.tensor(v))[0, 0].cpu().numpy()
        )
        for subject, view in views.items():
            self._measure(seed, subject, "victim", 0, view)

    def calibrations(self, seed: int) -> dict[str, Calibration]:
        """What the thief's spectra give, and what scans of one texture object on both scanners would."""
        if seed not in self._calibrations:
            power = self.study.steal.power
            own, reference = self.setting.thief_scans(seed)
            self._calibrations[seed] = {
                "population": power.fit(reference, own),
                "phantom": power.fit(*self.setting.phantoms()),
            }
        return self._calibrations[seed]

    def write_calibrations(self) -> None:
        """``calibration.csv``: gains of every seed beside the truth, which only a simulated scanner has."""
        rows = [
            {
                "seed": seed,
                "estimator": name,
                "frequency": f,
                "log_h": log_h,
                "log_h_true": float(np.log(self.study.shift.transfer(np.array(f)))),
                "snr": snr,
                "to_a_gain": to_a,
                "to_b_gain": to_b,
            }
            for seed in self.study.seeds
            for name, c in self.calibrations(seed).items()
            for f, log_h, snr, to_a, to_b in zip(
                c.frequency, c.log_h, c.snr, c.to_a_gain, c.to_b_gain, strict=True
            )
        ]
        text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        (self.setting.folder / "calibration.csv").write_text(text, encoding="utf-8", newline="")

    def measure_copy(self, seed: int, theft: Theft, copy: Copy) -> None:
        """A copy on scanner B: behind the thief's calibration, or on raw volumes where it learned those."""
        calibration = copy.calibration if theft.steal.domain == "cal" else None
        predictor = copy.predictor()
        self._measure(
            seed,
            theft.name,
            theft.spec,
            copy.queries,
            lambda v: self.setting.labels(predictor, self.setting.scanned(v, calibration)),
        )

    def _measure(
        self, seed: int, subject: str, spec: str, queries: int, view: Callable[[Volume], np.ndarray]
    ) -> None:
        same = {
            "victim_sha256": self.setting.victim.sha256,
            "shift": str(self.study.shift),
            "seed": seed,
            "subject": subject,
            "spec": spec,
        }
        if self.function.has([v.id for v in self.setting.test], **same):
            return
        classes = len(self.setting.dataset.class_names)
        rows = []
        for volume, victim in zip(self.setting.test, self.setting.answers_on_a, strict=True):
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
        self._attack(seed, WHITE_BOX, self.setting.victim.sha256, lambda _: self.setting.deployed, everything)
        for name in self.study.others:
            path = self.zoo / f"{name}.safetensors"
            loaded = load_checkpoint(path, architecture=name)
            network = loaded.network.to(self.setting.device).requires_grad_(False)
            predictor = SlidingWindow(network, loaded.card.roi_size).eval()
            self._attack(
                seed,
                f"independent, {name}, true labels",
                loaded.sha256,
                lambda _, p=predictor: p,
                everything if self.study.full else ("smooth",),
            )
        for each in self.study.seeds:
            self._attack(each, "sign noise", "none", lambda _: self.setting.deployed, ("uniform",))
            self._attack(
                each, "smoothed sign noise", "none", lambda _: self.setting.deployed, ("smooth_noise",)
            )

    def attack_copy(self, seed: int, theft: Theft, copy: Copy) -> None:
        """The victim under volumes that were made on the copy."""
        predictor = copy.predictor()

        def surrogate(volume: Volume) -> nn.Module:
            if theft.steal.domain == "cal" or copy.calibration is None:
                return predictor
            return (
                Filtered(predictor, copy.calibration.filter_to_b(volume.spacing_mm))
                .to(self.setting.device)
                .eval()
            )

        self._attack(seed, theft.name, theft.spec, surrogate, theft.attacks)

    def _attack(
        self,
        seed: int,
        surrogate: str,
        spec: str,
        model: Callable[[Volume], nn.Module],
        names: Sequence[str],
    ) -> None:
        classes = len(self.setting.dataset.class_names)
        for eps, attack, written in self.attacks(names):
            same = {
                "victim_sha256": self.setting.victim.sha256,
                "seed": seed,
                "surrogate": surrogate,
                "spec": spec,
                "attack": written,
                "eps": eps,
            }
            if self.transfer.has([v.id for v in self.setting.test], **same):
                continue
            rows = []
            for volume, clean in zip(self.setting.test, self.setting.answers_on_a, strict=True):
                images = self.setting.tensor(volume)
                truth = torch.from_numpy(volume.label.astype(np.int64))[None, None].to(self.setting.device)
                generator = torch.Generator().manual_seed(_seed(seed, volume.id))
                moved = attack(model(volume), images, truth, generator=generator)
                change = (moved - images).double()
                rows.append(
                    TransferRow(
                        **same,
                        case=volume.id,
                        dice_clean=foreground_dice(clean, volume.label, classes),
                        dice_adv=foreground_dice(
                            self.setting.labels(self.setting.deployed, moved), volume.label, classes
                        ),
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
