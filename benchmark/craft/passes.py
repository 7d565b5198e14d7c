"""What an attack may cost, told from its parameters before it runs."""

from __future__ import annotations

import math

from robustvox.attacks import Attack, Ensemble
from robustvox.attacks.interop import TorchAttack
from robustvox.attacks.published import LastIterate

from .matched import ATTEMPTS, Matched


def most_passes(attack: Attack) -> int:
    """The most forward and backward passes that an attack makes on one volume, as far as its parameters tell.

    ``restarts * (2 * steps + queries + 2)``, with what an attack does not have left out; the members of an ensemble
    add up, and a matched attack runs at most :data:`~robustvox.benchmark.craft.matched.ATTEMPTS` times beside its
    reference. Of an attack of torchattacks every whole number counts as a loop. An attack of somebody's own may loop
    over something with another name: what has to end is also counted while it runs, see
    :class:`~robustvox.benchmark.craft.meter.Meter`.

    Example:
        >>> from robustvox.attacks import GN, PGD, VAFA
        >>> most_passes(GN()), most_passes(PGD(steps=20)), most_passes(Ensemble())
        (2, 42, 1020)
        >>> most_passes(Matched(attack=VAFA(steps=20), reference=PGD(steps=20)))
        546
    """
    if isinstance(attack, Matched):
        return most_passes(attack.reference) + ATTEMPTS * most_passes(attack.attack)
    if isinstance(attack, LastIterate):
        return most_passes(attack.attack)
    if isinstance(attack, Ensemble):
        return sum(most_passes(member) + 2 for member in attack.members())
    if isinstance(attack, TorchAttack):
        return 2 * math.prod(number + 1 for _, number in attack.parameters if type(number) is int)
    steps, queries, restarts = (
        number if type(number) is int else usual
        for number, usual in (
            (getattr(attack, "steps", 0), 0),
            (getattr(attack, "queries", 0), 0),
            (getattr(attack, "restarts", 1), 1),
        )
    )
    return restarts * (2 * steps + queries + 2)
