"""The iterative scheme: calibrate, ask, train a copy, keep what it agrees on, calibrate again.

The abstract of arXiv 2407.03512 names "a transfer function and an iterative schema"; its full text could not be
had. The scheme here is our reading of it and must not be called the paper's method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.models import SlidingWindow, build_model

from ...specs.spec import Spec
from ...training.recipe import Progress, Recipe
from ...training.train import optimize
from ...training.windows import Sample
from .agreement import foreground_dice
from .calibration import Calibration, PowerCalibration
from .fitting import AnswerLoss
from .port import QueryPort
from .scans import Scan

SELECT = ("random", "disagreement")
DOMAINS = ("cal", "b")
CALIBRATIONS = ("population", "phantom", "none")
KNOTS = 6  # radial log-gains that a search may bend


class Round(NamedTuple):
    """What one round did; agreements are foreground Dice in [0, 1], NaN where nothing could be measured."""

    round: int
    asked: int
    searched: int
    kept: int
    agreement: float
    held_out: float


@dataclass(frozen=True, eq=False)
class StolenModel:
    """The copy: a network for windows, and how it came about.

    Attributes:
        network: maps ``(B, C, *roi_size)`` to logits; in eval mode.
        calibration: of the last round, or None without any.
        queries: volumes that the victim answered.
        history: one entry per round.
    """

    network: nn.Module
    roi_size: tuple[int, ...]
    calibration: Calibration | None
    queries: int
    history: tuple[Round, ...]

    def predictor(self) -> SlidingWindow:
        """The copy on whole volumes."""
        return SlidingWindow(self.network, self.roi_size).eval()


@dataclass(frozen=True, kw_only=True)
class Steal:
    """Hyper-parameters of a theft; call it with the port and what the thief owns.

    Per round: (1) the transfer function from spectra; (2) calibrated volumes are sent through the port, as many
    as the round's share of the budget; (3) the copy trains on the answers; (4) volumes on which it agrees with the
    victim (foreground Dice >= ``keep``) are kept, spectra are estimated again on them, and where ``search`` pays
    for it, radial log-gains are searched one by one for a higher agreement of victim and copy (or a higher mean
    confidence of the victim where it tells probabilities). It stops when the budget is spent or the agreement on
    the held-out answers gains less than ``stop``. Held-out answers come out of the budget too.

    Source: reading of arXiv 2407.03512 (its abstract); see the module.

    Args:
        budget: volumes asked at most, the port's own limit apart.
        rounds: at most, >= 1.
        steps: optimizer steps in all, shared by the rounds. After 200 a copy of a well trained victim still errs on
            the answers it learned from.
        batch_size: windows per step.
        architecture: spec of the copy; nothing about the victim's is assumed.
        domain: ``"cal"``: the copy learns calibrated volumes, hence works on scanner A; ``"b"``: it learns the
            thief's own raw volumes, and works on scanner B.
        calibration: ``"population"``, spectra of the thief's volumes against ``reference``; ``"phantom"``, of one
            texture object on both scanners; ``"none"``, raw volumes are sent.
        select: ``"random"``, or ``"disagreement"``: from the second round on the volumes on which the copy of half
            way and the final one differ most.
        keep: agreement from which a volume is trusted for the spectra.
        hold_out: share of every round's answers that only measure.
        stop: least gain of held-out agreement for another round.
        search: share of the budget that the search may spend; 0 leaves it out.
        num_classes: of the victim's answers, which a thief reads off them.
        roi_size: window of the copy, voxels.
        seed: of the choice, the weights and the training; the same seed gives the same copy bit for bit on one
            machine with one thread count.

    Raises:
        ValueError: for a parameter out of range.
    """

    budget: int = 38
    rounds: int = 1
    steps: int = 400
    batch_size: int = 2
    lr: float = 2e-3
    architecture: str = "unet:num_res_units=0,size=small"
    domain: Literal["cal", "b"] = "cal"
    calibration: Literal["population", "phantom", "none"] = "population"
    select: Literal["random", "disagreement"] = "random"
    keep: float = 0.8
    hold_out: float = 0.1
    stop: float = 0.005
    search: float = 0.0
    num_classes: int = 3
    roi_size: tuple[int, ...] = (48, 64, 48)
    seed: int = 0
    power: PowerCalibration = field(default_factory=PowerCalibration)

    def __post_init__(self) -> None:
        for name, known in (("domain", DOMAINS), ("calibration", CALIBRATIONS), ("select", SELECT)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("budget", "rounds", "steps", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
        for name in ("keep", "hold_out", "stop", "search"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a share in [0, 1), got {getattr(self, name)!r}")
        if self.budget < 2 * self.rounds:
            raise ValueError(
                f"budget: expected at least two volumes per round, {2 * self.rounds}, got {self.budget}; "
                "ask for fewer rounds"
            )

    def __call__(
        self,
        port: QueryPort,
        scans: Sequence[Scan],
        reference: Sequence[Scan] = (),
        *,
        phantoms: tuple[Sequence[Scan], Sequence[Scan]] | None = None,
        device: str | torch.device = "cpu",
        on_step: Callable[[Progress], None] | None = None,
    ) -> StolenModel:
        """Steal through ``port`` with the thief's ``scans``.

        Args:
            port: the victim.
            scans: unlabelled volumes of scanner B, at least two.
            reference: unlabelled volumes of scanner A (public ones), for ``calibration="population"``.
            phantoms: scans of one object on A and on B, for ``calibration="phantom"``.
            device: where the copy trains.
            on_step: called after every optimizer step, counted over all rounds.

        Raises:
            ValueError: if there are no scans for the calibration asked for.
        """
        if len(scans) < 2 or len({scan.id for scan in scans}) != len(scans):
            raise ValueError(f"expected at least two scans with different ids, got {len(scans)}")
        return _Theft(self, port, scans, reference, phantoms, device, on_step).run()


class _Theft:
    """One theft in progress."""

    def __init__(
        self,
        plan: Steal,
        port: QueryPort,
        scans: Sequence[Scan],
        reference: Sequence[Scan],
        phantoms: tuple[Sequence[Scan], Sequence[Scan]] | None,
        device: str | torch.device,
        on_step: Callable[[Progress], None] | None,
    ) -> None:
        self.plan, self.port, self.scans, self.reference = plan, port, list(scans), reference
        self.phantoms, self.device, self.on_step = phantoms, device, on_step
        self.start = port.answered
        self.rng = np.random.default_rng(plan.seed)
        self.answers: dict[str, Sample] = {}
        self.held_out: dict[str, Sample] = {}
        self.half: nn.Module | None = None
        self.network = new_network(plan, self.scans[0].image.shape[0]).to(device)
        self.copy = self.network

    def run(self) -> StolenModel:
        plan, history = self.plan, []
        calibration = self.calibrate(self.scans)
        for number in range(plan.rounds):
            allowed = min(plan.budget, self.start + self.port.budget) - self.asked
            ahead = self.search_share if number + 1 < plan.rounds else 0
            share = max((allowed - ahead) // (plan.rounds - number), 0)
            chosen = self.choose(share, calibration)
            if not chosen:
                break
            self.ask(chosen, calibration)
            self.train(number)
            kept = self.agreeing()
            entry = Round(
                number, len(chosen), 0, len(kept), self.agreement(self.answers), self.agreement(self.held_out)
            )
            if number + 1 < plan.rounds:
                if len(kept) >= 2:
                    calibration = self.calibrate(kept)
                before = self.asked
                calibration = self.search(calibration, ahead)
                entry = entry._replace(searched=self.asked - before)
            history.append(entry)
            if len(history) > 1 and history[-1].held_out - history[-2].held_out < plan.stop:
                break
        return StolenModel(self.copy, plan.roi_size, calibration, self.asked, tuple(history))

    @property
    def asked(self) -> int:
        return self.port.answered - self.start

    def calibrate(self, scans: Sequence[Scan]) -> Calibration | None:
        """The transfer function from the spectra of these scans, or of the phantoms, which no round changes."""
        plan = self.plan
        if plan.calibration == "none":
            return None
        if plan.calibration == "phantom":
            if self.phantoms is None:
                raise ValueError("expected phantoms of both scanners with calibration='phantom', got none")
            return plan.power.fit(*self.phantoms)
        if not self.reference:
            raise ValueError("expected reference scans of scanner A with calibration='population', got none")
        return plan.power.fit(self.reference, scans)

    def choose(self, share: int, calibration: Calibration | None) -> list[Scan]:
        """The next volumes to ask about, none of them asked before."""
        asked = self.answers.keys() | self.held_out.keys()
        rest = [scan for scan in self.scans if scan.id not in asked]
        order = [rest[i] for i in self.rng.permutation(len(rest))]
        if self.plan.select == "disagreement" and self.half is not None:
            half, last = (SlidingWindow(net, self.plan.roi_size).eval() for net in (self.half, self.copy))

            def sureness(scan: Scan) -> float:
                image = self.view(scan, calibration)
                return foreground_dice(_labels(half, image), _labels(last, image), self.plan.num_classes)

            order.sort(key=sureness)
        return order[:share]

    def view(self, scan: Scan, calibration: Calibration | None) -> Tensor:
        """``(1, C, *spatial)``: what is sent, and what the copy sees with ``domain="cal"``."""
        image = torch.from_numpy(scan.image)[None].to(self.device)
        return image if calibration is None else calibration.to_a(image, scan.spacing_mm).clamp(0, 1)

    def ask(self, chosen: Sequence[Scan], calibration: Calibration | None) -> None:
        """Send volumes and file the answers, some of them as held out."""
        spare = round(self.plan.hold_out * len(chosen))
        for place, scan in enumerate(chosen):
            image = self.view(scan, calibration)
            answer = self.port(image)[0].cpu()
            seen = image[0].cpu() if self.plan.domain == "cal" else torch.from_numpy(scan.image)
            filed = self.held_out if place >= len(chosen) - spare else self.answers
            filed[scan.id] = Sample(seen, answer)

    def train(self, number: int) -> None:
        plan = self.plan
        share = plan.steps // plan.rounds
        recipe = Recipe(steps=share, batch_size=plan.batch_size, lr=plan.lr)
        told = self.on_step

        def tell(step: Progress) -> None:
            if told is not None:
                told(Progress(number * share + step.step, plan.steps, step.loss, step.seconds))

        def keep_half(step: int, averaged: nn.Module) -> None:
            if step == recipe.steps // 2:
                self.half = copy.deepcopy(averaged)

        self.copy = optimize(
            self.network,
            list(self.answers.values()),
            plan.roi_size,
            recipe,
            AnswerLoss(),
            seed=plan.seed + 1000 * number,
            on_step=tell,
            on_average=keep_half,
        ).averaged
        # The next round goes on from the averaged weights.
        self.network.load_state_dict(self.copy.state_dict())

    def agreement(self, answers: dict[str, Sample]) -> float:
        """Mean foreground Dice of the copy's labels and the victim's; NaN without answers."""
        return (
            float(np.mean([self._agrees(answer) for answer in answers.values()])) if answers else float("nan")
        )

    def agreeing(self) -> list[Scan]:
        """The scans on which copy and victim agree."""
        filed = {**self.answers, **self.held_out}
        good = {name for name, answer in filed.items() if self._agrees(answer) >= self.plan.keep}
        return [scan for scan in self.scans if scan.id in good]

    def _agrees(self, answer: Sample) -> float:
        predictor = SlidingWindow(self.copy, self.plan.roi_size).eval()
        ours = _labels(predictor, answer.image[None].to(self.device))
        return foreground_dice(ours, answer.classes.numpy(), self.plan.num_classes)

    @property
    def search_share(self) -> int:
        """Queries that the search after one round may cost."""
        return int(self.plan.search * self.plan.budget) // max(self.plan.rounds - 1, 1)

    def search(self, calibration: Calibration | None, allowed: int) -> Calibration | None:
        """Bend the gain knot by knot where victim and copy then agree more; every trial is a query.

        One held-out volume judges, always the same, so that two calibrations are compared and not two patients.
        """
        names = list(self.held_out) or list(self.answers)
        if calibration is None or allowed < 2 or not names:
            return calibration
        judge = next(scan for scan in self.scans if scan.id == names[0])
        best, value = calibration, self._judged(judge, calibration)
        gains = np.zeros(KNOTS)
        left = allowed - 1
        for knot in range(1, KNOTS):  # the mean is fixed, so the first one is
            for change in (0.2, -0.2):
                if left < 1:
                    return best
                left -= 1
                trial = gains.copy()
                trial[knot] += change
                bent = calibration.bent(list(trial), self.plan.power.max_gain)
                score = self._judged(judge, bent)
                if score > value:
                    best, value, gains = bent, score, trial
                    break
        return best

    def _judged(self, scan: Scan, calibration: Calibration) -> float:
        image = self.view(scan, calibration)
        answer = self.port(image)[0].cpu()
        if answer.is_floating_point():
            return float(answer.max(0).values.mean())
        raw = torch.from_numpy(scan.image)[None].to(self.device)
        ours = _labels(
            SlidingWindow(self.copy, self.plan.roi_size).eval(), image if self.plan.domain == "cal" else raw
        )
        return foreground_dice(ours, answer[0].numpy(), self.plan.num_classes)


def new_network(steal: Steal, in_channels: int) -> nn.Module:
    """The copy before it has learned anything; its weights follow from the thief's seed."""
    spec = Spec.parse(steal.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steal.seed)
        return build_model(
            spec.name,
            in_channels=in_channels,
            num_classes=steal.num_classes,
            roi_size=steal.roi_size,
            **{"size": "small", **spec.parameters},
        )


def _labels(predictor: nn.Module, image: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return predictor(image).argmax(1)[0].cpu().numpy()
