"""What reading somebody's model gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..sliding_window import SlidingWindow
from .transforms import Preprocessed, Step

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class BroughtModel:
    """A model somebody brought, ready for a predictor. Exactly one of ``network`` and ``predictor`` is there.

    Args:
        name: short, for people; never a path.
        sha256: identity of what was loaded: of the file of the weights, or of configuration and weights.
        roi_size: window in voxels, one entry per spatial axis.
        network: maps windows ``(B, C, *roi_size)`` in [0, 1] to logits ``(B, K, *roi_size)``.
        predictor: maps whole volumes ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``, differentiable; for
            formats that bring their own pre- and postprocessing.
        notes: what the user should know about how it was read, one sentence each.
        spacing_mm: the voxel spacing the model was made for, in the axes of the data, where the format tells it.
        resamples: whether its predictor brings a case to that spacing by itself; where it does not, data of another
            spacing are not for it.
        own_window: whether the format says its window; where not, it is the one that was given.
        preprocessing: steps between a case and the windows of ``network``, as :mod:`~.transforms` has them.
        held_out: ids of the data's cases it was validated on; None where nobody knows.
        trained_on: ids of the data's cases it was trained on, as far as known.
        claimed: mean foreground Dice that its checkpoint says it has on validation data.
    """

    name: str
    sha256: str
    roi_size: tuple[int, ...]
    network: nn.Module | None = None
    predictor: nn.Module | None = None
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    resamples: bool = False
    own_window: bool = True
    preprocessing: tuple[Step, ...] = ()
    held_out: tuple[str, ...] | None = None
    trained_on: frozenset[str] = frozenset()
    claimed: float | None = None

    def __post_init__(self) -> None:
        if (self.network is None) == (self.predictor is None):
            raise ValueError("expected a network or a predictor, got both or neither; give exactly one")

    def as_predictor(
        self, overlap: float, mode: str, sw_batch_size: int | str, padding: str = "zeros"
    ) -> nn.Module:
        """The predictor of whole volumes: its own, or a sliding window around the network."""
        if self.network is None:
            return cast("nn.Module", self.predictor)
        windows = SlidingWindow(self.network, self.roi_size, overlap, sw_batch_size, mode, padding=padding)
        if not self.preprocessing:
            return windows
        return Preprocessed(windows, self.preprocessing, self.name)
