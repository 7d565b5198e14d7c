"""The suite of a protocol: the rows that a model needs to be ranked. Frozen like the protocol whose name it has.

A ranking over whatever attacks the models happen to share can be moved by adding a row or leaving one out. So what
counts is written down here, whole specs and cases, and nothing else moves a place. A change of it is a new protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .protocols import DEFAULT_PROTOCOL
from .spec import CLEAN
from .suite_cases import SUITE_CASES, SuiteCases

EVERY_CHECK = tuple(f"C{number}" for number in range(28) if number != 19)
"""Ids of all checks; C19 is the format of the records."""

_SCORED = ("C5", "C13", "C20")
_FREQUENCY = ("C2", "C6", *_SCORED, "C21", "C22")


@dataclass(frozen=True, kw_only=True)
class SuiteRow:
    """One row of a suite.

    Attributes:
        text: as ``--attack`` takes it; empty for the clean volume.
        spec: canonical, with everything filled in.
        label: short, for a table.
        control: whether it only shows what is not an attack; it does not count in the worst case.
        checks: ids that ``check`` computes for it; none for a control. What belongs to the model is asked once, under PGD.
    """

    text: str
    spec: str
    label: str
    control: bool = False
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Rows and cases.

    Attributes:
        name: of the suite; that of its protocol.
        rows: the clean volume first.
        split, n_cases: the first so many cases of this split.
        seed: of all noise; rows of other seeds do not count.
    """

    name: str
    rows: tuple[SuiteRow, ...]
    split: str = "validation"
    n_cases: int = 12
    seed: int = 0

    @property
    def attacked(self) -> tuple[SuiteRow, ...]:
        """What the worst case is taken over."""
        return tuple(row for row in self.rows if not row.control)

    @property
    def run(self) -> tuple[SuiteRow, ...]:
        """What is typed after ``--attack``; the clean volume comes with every run."""
        return tuple(row for row in self.rows if row.spec != CLEAN)

    def row(self, spec: str) -> SuiteRow | None:
        """The row of a canonical spec."""
        return next((row for row in self.rows if row.spec == spec), None)

    def cases(self, dataset: str) -> SuiteCases | None:
        """The frozen cases of a dataset, None where there are none yet."""
        return SUITE_CASES.get(dataset)


_CLEAN = SuiteRow(text="", spec=CLEAN, label="clean", control=True)
_NOISE = SuiteRow(text="gn:std=8/255", spec="gn:std=8/255", label="noise 8/255", control=True)
_PGD = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=20"
_VAFA = (
    "vafa:block_size=32,eps=none,hard_rounding=false,loss=dice_ce,q_init=max,q_max={},q_min=1,renorm=none,"
    "ssim_weight=1,steps=20"
)
_LAST_VAFA = (
    "vafa:block_size=32,eps=none,hard_rounding=false,iterate=last,loss=dice_ce,q_init=max,q_max={},q_min=5,"
    "renorm=slice,ssim_weight=1,steps=20"
)


def _row(text: str, spec: str, label: str, *checks: str) -> SuiteRow:
    return SuiteRow(text=text, spec=spec, label=label, checks=checks)


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        DEFAULT_PROTOCOL: Suite(
            name=DEFAULT_PROTOCOL,
            rows=(
                _CLEAN,
                _NOISE,
                _row("fgsm:eps=8/255", "fgsm:eps=8/255,loss=dice", "FGSM 8/255", "C1", "C2", *_SCORED),
                _row("pgd:eps=8/255", _PGD, "PGD 8/255", *EVERY_CHECK),
                _row(
                    "cospgd:eps=8/255",
                    "cospgd:alpha=2/255,eps=8/255,random_start=true,restarts=1,steps=20",
                    "CosPGD 8/255",
                    *("C1", "C2", "C4", "C6", "C14", *_SCORED),
                ),
                _row("vafa:q_max=20", _VAFA.format(20), "VAFA 20", *_FREQUENCY),
                _row("vafa:q_max=30", _VAFA.format(30), "VAFA 30", *_FREQUENCY),
                _row("vafa@l2=pgd:eps=8/255", f"{_VAFA.format(20)}@l2~0.02={_PGD}", "VAFA at L2 of PGD", *_SCORED),
                _row("ensemble:eps=8/255", "ensemble:eps=8/255", "ensemble 8/255", "C4", *_SCORED),
            ),
        ),
        # Without the matched row: what keeps its last iterate cannot be searched for a distortion. Its checks too
        # are those of the other protocol, which sees what is scored.
        "bmvc2024": Suite(
            name="bmvc2024",
            rows=(
                _CLEAN,
                _NOISE,
                _row("fgsm:eps=8/255", "fgsm:eps=8/255,loss=dice_ce", "FGSM 8/255"),
                _row(
                    "pgd:eps=8/255",
                    "pgd:alpha=0.01,eps=8/255,iterate=last,loss=dice_ce,random_start=false,restarts=1,steps=20",
                    "PGD 8/255",
                ),
                _row(
                    "cospgd:eps=8/255",
                    "cospgd_mean:alpha=0.01,eps=8/255,iterate=last,random_start=true,restarts=1,steps=20",
                    "CosPGD 8/255",
                ),
                _row("vafa:q_max=20", _LAST_VAFA.format(20), "VAFA 20"),
                _row("vafa:q_max=30", _LAST_VAFA.format(30), "VAFA 30"),
                _row("ensemble:eps=8/255", "ensemble:eps=8/255", "ensemble 8/255"),
            ),
        ),
    }
)  # fmt: skip


def find_suite(protocol: str) -> Suite | None:
    """The suite of a protocol; a variant has none, and its models are not ranked.

    Example:
        >>> find_suite("robustvox-1").row("ensemble:eps=8/255").label
        'ensemble 8/255'
        >>> find_suite("robustvox-1:uint8=true")
    """
    return SUITES.get(protocol)
