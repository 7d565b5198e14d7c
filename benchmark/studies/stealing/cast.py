"""Who plays what: the victim's patients, the thief's, those both see unlabelled, and those nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from robustvox.datasets import Dataset, Volume
from robustvox.models import ModelCard

CASES = "training_cases"
"""Key of a card's ``data`` under which a victim trained here names its cases, separated by blanks."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Case ids by role; no id plays two.

    Args:
        victim: what the victim was trained on.
        pool: the thief's own patients, scanned on B, unlabelled.
        reference: unlabelled volumes of scanner A that the thief has (public ones), for the spectra.
        test: what everything is measured on.

    Raises:
        ValueError: if an id has two roles, or a role nobody.

    Example:
        >>> Cast(victim=("a",), pool=("b", "c"), reference=("d",), test=("a",))
        Traceback (most recent call last):
        ValueError: expected every case in one role, found a as victim and test
    """

    victim: tuple[str, ...]
    pool: tuple[str, ...]
    reference: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        roles: dict[str, str] = {}
        for role in (field.name for field in fields(self)):
            if not getattr(self, role):
                raise ValueError(f"expected cases for the role {role}, found none")
            for case in getattr(self, role):
                if case in roles:
                    raise ValueError(
                        f"expected every case in one role, found {case} as {roles[case]} and {role}"
                    )
                roles[case] = role


def cast_roles(
    dataset: Dataset,
    *,
    pool: int,
    reference: int,
    test: int,
    victim: int | Sequence[str],
    seed: int = 0,
) -> Cast:
    """Draw the roles: the victim's patients and the test patients are the same for every seed, the thief's are not.

    Test patients are of the validation split, so that no checkpoint of the zoo has seen one either.

    Args:
        dataset: with splits ``train`` and ``validation``.
        pool, reference, test: how many cases.
        victim: how many cases of ``train`` a victim shall be trained on, or the ids of a trained one.
        seed: of the thief's patients and the public volumes.

    Raises:
        ValueError: if the dataset has too few cases outside of the victim's.
    """
    train, held_out = list(dataset.splits["train"]), list(dataset.splits["validation"])
    trained = set() if isinstance(victim, int) else set(victim)
    fixed = np.random.default_rng(20240703)
    candidates = [held_out[i] for i in fixed.permutation(len(held_out)) if held_out[i] not in trained]
    chosen = candidates[:test]
    if isinstance(victim, int):
        trained = {train[i] for i in np.random.default_rng(0).permutation(len(train))[:victim]}
    rng = np.random.default_rng([seed, 1])
    rest = [case for case in (*train, *held_out) if case not in trained and case not in chosen]
    rest = [rest[i] for i in rng.permutation(len(rest))]
    wanted = pool + reference
    if len(chosen) < test or len(rest) < wanted or (isinstance(victim, int) and len(trained) < victim):
        raise ValueError(
            f"expected {test} test, {reference} reference and {pool} pool cases outside of the victim's "
            f"{len(trained)}, found {len(rest) + len(chosen)} in {dataset.name}; give a smaller --pool (and --queries) or, "
            "without --checkpoint, fewer --victim-cases"
        )
    return Cast(
        victim=tuple(sorted(trained)),
        pool=tuple(sorted(rest[reference:wanted])),
        reference=tuple(sorted(rest[:reference])),
        test=tuple(sorted(chosen)),
    )


def trained_on(card: ModelCard, dataset: Dataset) -> tuple[str, ...]:
    """The ids a checkpoint was trained on: named on its card, or the training split of the same dataset and rule.

    Raises:
        ValueError: if nobody can tell.
    """
    if CASES in card.data:
        return tuple(str(card.data[CASES]).split())
    if card.dataset == dataset.name and card.data.get("split") == dataset.provenance.get("split"):
        return tuple(dataset.splits["train"])
    raise ValueError(
        f"expected a victim that names its training cases, found one trained on {card.dataset} under the split "
        f"{card.data.get('split', 'unknown')!r}; train one with `steal`, or with this dataset"
    )


@dataclass(frozen=True)
class Part:
    """Some cases of a dataset as a dataset of their own, for training on them alone."""

    whole: Dataset
    cases: tuple[str, ...]
    held_out: tuple[str, ...]
    window: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.whole.class_names

    @property
    def in_channels(self) -> int:
        return self.whole.in_channels

    @property
    def roi_size(self) -> tuple[int, ...]:
        return self.window or self.whole.roi_size

    @property
    def nsd_tolerance_mm(self) -> float:
        return self.whole.nsd_tolerance_mm

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        return {"train": self.cases, "validation": self.held_out, "all": (*self.cases, *self.held_out)}

    @property
    def provenance(self) -> Mapping[str, str]:
        split = f"{len(self.cases)} cases, named, of: {self.whole.provenance.get('split', 'unknown')}"
        return {**self.whole.provenance, "split": split, CASES: " ".join(self.cases)}

    def load(self, case_id: str) -> Volume:
        return self.whole.load(case_id)
