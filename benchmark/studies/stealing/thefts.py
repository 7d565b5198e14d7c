"""Which thefts the study commits: what the thief does, and what the vendor does against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from robustvox.benchmark.specs import canonical

from .thief import Steal

NOISE = 2.0
"""Standard deviation of the logit noise of the vendor who answers with noise."""

PLAIN, RAW, BEHIND = "stolen, calibrated queries", "stolen, raw queries", "stolen, own images (behind a filter)"
TRUTH = "independent, same architecture, true labels"


@dataclass(frozen=True, kw_only=True)
class Theft:
    """One theft: its row in the tables, the thief's parameters, and the vendor's answer.

    Args:
        name: row in the tables.
        steal: parameters of the thief.
        port: arguments of the port but model, budget and seed.
        truth: train on the true labels in place of answers: what the thief could have had by labelling.
        defence: whether the row tells what a vendor may do.
    """

    name: str
    steal: Steal
    port: Mapping[str, Any] = field(default_factory=dict)
    truth: bool = False
    defence: bool = False

    @property
    def spec(self) -> str:
        """Everything that decides this theft besides victim, scanner and patients, as one text."""
        thief = {f.name: getattr(self.steal, f.name) for f in fields(self.steal) if f.name != "power"}
        power = {f"power_{f.name}": getattr(self.steal.power, f.name) for f in fields(self.steal.power)}
        port = {f"port_{key}": value for key, value in self.port.items()}
        return canonical("steal", {**thief, **power, **port, "truth": self.truth})


def thefts(plain: Steal, curve: tuple[int, ...]) -> tuple[Theft, ...]:
    """The thefts of one seed, the plain one first; ``curve`` are smaller budgets."""
    rows = [
        Theft(name=PLAIN, steal=plain),
        Theft(name=RAW, steal=replace(plain, calibration="none")),
        Theft(name=BEHIND, steal=replace(plain, domain="b")),
        Theft(name=TRUTH, steal=plain, truth=True),
        Theft(name="answers: probabilities", steal=plain, port={"output": "probabilities"}, defence=True),
        Theft(
            name="answers: probabilities of 1 digit",
            steal=plain,
            port={"output": "probabilities", "decimals": 1},
            defence=True,
        ),
        Theft(name=f"answers: labels, logit noise {NOISE:g}", steal=plain, port={"noise": NOISE}, defence=True),
    ]
    for budget in curve:
        few = replace(plain, budget=budget)
        rows.append(Theft(name=f"{budget} queries", steal=few, defence=True))
    if curve:
        chosen = replace(plain, budget=max(curve), select="disagreement")
        rows.append(Theft(name=f"{max(curve)} queries, chosen by disagreement", steal=chosen, defence=True))
    if plain.rounds > 1:
        rows.append(Theft(name="one round", steal=replace(plain, rounds=1)))
    return tuple(rows)
