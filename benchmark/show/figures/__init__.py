"""Figures: pure functions of arrays and tables that return a matplotlib ``Figure``.

====================  =====================================================================================
:mod:`.slices`        one case: image, perturbation, spectrum, reference, predictions in three planes
:mod:`.curves`        Dice against the budget, and against the measured L2
:mod:`.heatmap`       surrogate x target, per attack
:mod:`.bars`          clean and attacked Dice of every row of a table, with intervals
====================  =====================================================================================

:mod:`.canvas` holds what they share: the palette, and saving with the same bytes for the same input. Nothing
here uses pyplot or leaves a trace in matplotlib's settings. Sizes are in inches, positions in millimeters.
"""

from __future__ import annotations
