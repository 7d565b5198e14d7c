"""The search for a knob's value on a logarithmic scale."""

from __future__ import annotations

import math

_LARGEST_STEP = 8.0  # factor between two values of the knob while no bracket is known


class KnobSearch:
    """Looks for the knob on a logarithmic scale; keeps the run nearest to the target from below."""

    def __init__(self, own: float, cap: float, target: float, tolerance: float, power: float) -> None:
        self.own, self.cap = own, max(cap, own)
        self.target, self.least = target, (1 - tolerance) * target
        self.aim = (1 - tolerance / 2) * target
        self.power, self.narrow = power, 1 + tolerance / 4
        self.best = (0.0, math.inf)
        self.below: tuple[float, float] | None = None
        self.above: tuple[float, float] | None = None
        self.expansions = self.cuts = 0

    @property
    def matched(self) -> bool:
        return self.least <= self.best[1] <= self.target

    def tell(self, value: float, distortion: float) -> bool:
        """Take in what a value gave; True if it is the best so far."""
        if distortion > self.target:
            self.above = value, distortion
            better = distortion < self.best[1]
        else:
            self.below = value, distortion
            better = self.best[1] > self.target or distortion > self.best[1]
        if better:
            self.best = value, distortion
        return better

    def propose(self) -> float | None:
        """The next value to try; None when it is found or there is nothing more to try."""
        if self.matched:
            return None
        if self.below and self.above:
            return self._inside(self.below, self.above)
        if self.below:
            value, factor = self.below[0], self._expand(self.below[1])
            return min(value * factor, self.cap) if value < self.cap else None
        if self.above:
            value, factor, floor = self.above[0], self._expand(self.above[1]), 1e-6 * self.cap
            return max(value / factor, floor) if value > floor else None
        return self.own

    def _expand(self, distortion: float) -> float:
        """Factor away from the only side that is known: what the power law says, growing when it fails."""
        least = min(2.0 ** max(self.expansions - 1, 0), _LARGEST_STEP)
        self.expansions += 1
        if distortion <= 0:
            return _LARGEST_STEP
        ratio = abs(math.log(self.aim / distortion)) / self.power
        return max(math.exp(min(ratio, math.log(_LARGEST_STEP))), least)

    def _inside(self, below: tuple[float, float], above: tuple[float, float]) -> float | None:
        (low, less), (high, more) = below, above
        if high <= low * self.narrow:
            return None  # the distortion jumps here
        self.cuts += 1
        share = 0.5
        if less > 1e-6 * self.target and self.cuts % 2:
            share = min(max(math.log(self.aim / less) / math.log(more / less), 0.1), 0.9)
        return low * (high / low) ** share
