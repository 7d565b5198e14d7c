"""Which field of an attack scales it, and what is compared when attacks are matched."""

from __future__ import annotations

#: knob -> largest value that is tried; an attack's knob is the first of these fields that holds a number > 0
KNOBS = {"q_max": 2000.0, "rho": 1.0, "std": 1.0, "eps": 1.0}


#: knob -> step size that keeps its ratio to the knob
STEPS = {"rho": "beta", "eps": "alpha"}


#: measure -> how it grows with a small knob, as a power
MEASURES = {"l2": 1.0, "ssim": 2.0}


TOLERANCE = 0.02


BUDGETS = ("eps", "std", "q_max", "rho")
