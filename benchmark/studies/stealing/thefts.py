"""Which thefts the study commits: what the thief does, and what the vendor does against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ...specs.spec import canonical
from .thief import Steal

NOISE = 0.5
"""Standard deviation of the logit noise of the vendor who answers with noise."""

PLAIN, RAW, BEHIND = (
    "stolen, calibrated queries",
    "stolen, raw queries",
    "stolen, own images (behind a filter)",
)
COMPARED = (PLAIN, RAW)
"""What the calibration is worth, and what every other row is compared with."""

TRUTH = "independent, same architecture, true labels"


@dataclass(frozen=True, kw_only=True)
class Theft:
    """One theft: its row in the tables, the thief's parameters, and the vendor's answer.

    Args:
        name: row in the tables.
        steal: parameters of the thief.
        port: arguments of the port but model, budget and seed.
        truth: train on the true labels in place of answers: what the thief could have had by labelling.
        attacks: names of the attacks that the copy is a surrogate for.
    """

    name: str
    steal: Steal
    port: Mapping[str, Any] = field(default_factory=dict)
    truth: bool = False
    attacks: tuple[str, ...] = ()

    @property
    def spec(self) -> str:
        """Everything that decides this theft besides victim, scanner and patients, as one text."""
        thief = {f.name: getattr(self.steal, f.name) for f in fields(self.steal) if f.name != "power"}
        power = {f"power_{f.name}": getattr(self.steal.power, f.name) for f in fields(self.steal.power)}
        port = {f"port_{key}": value for key, value in self.port.items()}
        return canonical("steal", {**thief, **power, **port, "truth": self.truth})


def thefts(plain: Steal, curve: tuple[int, ...], *, full: bool = True) -> tuple[Theft, ...]:
    """The thefts of one seed, those that everything else is compared with first.

    Args:
        plain: the thief of the first row, from which all others differ in one thing.
        curve: smaller budgets; the smallest is also a surrogate.
        full: also the larger of them, a second round, chosen queries and a search of the filter.
    """
    both, smooth = ("pgd", "smooth"), ("smooth",)
    soft = {"output": "probabilities"}
    rows = [
        Theft(name=PLAIN, steal=plain, attacks=both),
        Theft(name=RAW, steal=replace(plain, calibration="none")),
        Theft(name=TRUTH, steal=plain, truth=True, attacks=both),
        Theft(name=BEHIND, steal=replace(plain, domain="b"), attacks=smooth),
        Theft(name="answers: probabilities", steal=plain, port=soft, attacks=smooth),
        Theft(
            name=f"answers: labels, logit noise {NOISE:g}", steal=plain, port={"noise": NOISE}, attacks=smooth
        ),
    ]
    for place, budget in enumerate(sorted(curve) if full else sorted(curve)[:1]):
        few = replace(plain, budget=budget)
        rows.append(Theft(name=f"{budget} queries", steal=few, attacks=() if place else smooth))
    rows.append(
        Theft(
            name="answers: probabilities of 1 digit",
            steal=plain,
            port={**soft, "decimals": 1},
            attacks=smooth,
        )
    )
    if not full:
        return tuple(rows)
    twice = replace(plain, rounds=2)
    rows.append(Theft(name="two rounds", steal=twice))
    if curve:
        chosen = replace(twice, budget=max(curve), select="disagreement")
        rows.append(Theft(name=f"{max(curve)} queries, chosen by disagreement", steal=chosen))
    rows.append(
        Theft(name="two rounds, a quarter of the queries for a search", steal=replace(twice, search=0.25))
    )
    return tuple(rows)
