"""VAFA: an attack on volumes through learned quantization of their local 3D spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import checks
from .base import LossAttack, Sharing, limits
from .dct import crop, dct, idct, pad_to_blocks
from .spectral import climb
from .task import Task

_SOFTNESS = 0.1  # softness of the rounding in the first step
_FLAT = 1e-6  # a slice with a smaller range is constant and cannot be stretched


@dataclass(frozen=True, kw_only=True)
class VAFA(LossAttack):
    """Volumetric adversarial frequency attack (3D).

    Cuts the volume into cubes, takes the orthonormal DCT of each and quantizes every coefficient with its
    own step q, as JPEG does; the steps are learned to hurt the segmentation while the volume stays
    similar. With c = DCT(255 x - 128), u = c / q and the soft rounding phi (see `soft_round`):

        x'(q) = clamp((IDCT(q * phi(u)) + 128) / 255, 0, 1)
        q <- clamp(q + sign(grad_q [L(f(x'), y) - ssim_weight * (1 - SSIM(x, x'))]), q_min, q_max)

    The rounding hardens from a = 0.1 to 0.1 / steps. Nothing bounds the L-inf norm unless `eps` is given;
    per block ||x' - x||_2 <= r * q_max * sqrt(n^rank) / 255 with r = max |phi(u) - u| <= 0.5 (renorm
    "none"). Compare with other attacks at equal L2 or SSIM, not at equal q_max. steps + 1 forwards, steps
    backwards.

    Source: Hanif et al., "Frequency Domain Adversarial Training for Robust Volumetric Medical
        Segmentation", MICCAI 2023, arXiv 2307.07269; code asif-hanif/vafa @83bdd07; soft rounding from
        Gong et al., ICCV 2019, arXiv 1908.05033, as used by AdvDrop, Duan et al., ICCV 2021, arXiv
        2108.09034.
    Differs from the source: no per-slice stretch to [0, 1] (`renorm="none"`); the volume is clamped before
        the model sees it, and SSIM sees the same volume; SSIM runs over the whole volume and not block by
        block, so the seams between blocks count and padding does not, for any number of channels; the
        returned volume belongs to the best evaluated table per sample and not to the last forward; state
        never outlives a call; q_min is 1 (paper), the code has 5; sides that the block does not divide are
        padded by replication and cropped.

    Args:
        q_max: largest quantization step on the 0-255 scale, >= q_min.
        q_min: smallest quantization step on the 0-255 scale, > 0.
        q_init: "max" starts at q_max (published code), "one" at 1 clamped to the range (paper).
        block_size: side of the cubic blocks in voxels, >= 1.
        steps: updates of the table, >= 0; 0 returns the start point.
        ssim_weight: weight of 1 - SSIM, >= 0; 0 skips it.
        renorm: "none"; "slice" stretches every slice of the first two spatial axes to [0, 1], only to
            compare with published tables: it changes intensities even without attack and voids the L2
            bound. Constant slices (range below 1e-6) are left alone.
        hard_rounding: evaluate and return truly rounded coefficients, with the gradient of the soft
            rounding.
        loss: key of `losses.LOSSES`.
        eps: None for no L-inf bound; a radius in [0, 1] projects every evaluated volume on that ball as
            well.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if a quantization step, the block or another hyper-parameter is out of range.

    Example:
        >>> from robustvox.attacks import VAFA, tiny_case
        >>> adversarial = VAFA(block_size=8, steps=3)(*tiny_case())
        >>> bool(0 <= adversarial.min() and adversarial.max() <= 1)
        True
    """

    sharing = Sharing.EQUAL_SHAPES

    #: axes that a block extends along; None means all spatial ones
    axes: ClassVar[Sequence[int] | None] = None

    q_max: float = 20.0
    q_min: float = 1.0
    q_init: str = "max"
    block_size: int = 32
    steps: int = 20
    ssim_weight: float = 1.0
    renorm: str = "none"
    hard_rounding: bool = False
    loss: str = "dice_ce"
    eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("q_min", self.q_min, 0.0, hint="Quantization steps are on the 0-255 scale")
        if self.q_min == 0:
            raise ValueError(
                "q_min: expected a step > 0, got 0. Use a tiny step such as 1e-3 for no quantization"
            )
        checks.real("q_max", self.q_max, self.q_min, hint="q_max must not lie below q_min")
        checks.choice("q_init", self.q_init, ("max", "one"))
        checks.whole("block_size", self.block_size, 1)
        checks.whole("steps", self.steps, 0)
        checks.real("ssim_weight", self.ssim_weight, 0.0)
        checks.choice("renorm", self.renorm, ("none", "slice"))
        checks.flag("hard_rounding", self.hard_rounding)
        if self.eps is not None:
            checks.budget("eps", self.eps)

    @property
    def radius(self) -> float | None:
        return self.eps

    def perturb(self, task: Task) -> Tensor:
        bounds = limits(task.images, self.eps)
        spatial = task.images.shape[2:]
        padded = pad_to_blocks(task.images, self.block_size, self.axes)
        # In the layout of `dct`, one table entry per coefficient is a volume as well.
        spectrum = dct(padded * 255 - 128, self.block_size, self.axes)
        first = self.q_max if self.q_init == "max" else min(max(1.0, self.q_min), self.q_max)
        return climb(
            task,
            torch.full_like(spectrum, first),
            steps=self.steps,
            decode=lambda table, step: self.decode(spectrum, table, step, spatial, bounds),
            update=lambda table, gradient: table.add_(gradient.sign_()).clamp_(self.q_min, self.q_max),
            loss=self.loss,
            ssim_weight=self.ssim_weight,
        )

    def softness(self, step: int) -> float:
        """Softness a of the rounding at an evaluated point: 0.1, falling linearly to 0.1 / steps.

        The last update and the closing evaluation share 0.1 / steps: a never reaches 0.
        """
        return _SOFTNESS * max(self.steps - step, 1) / max(self.steps, 1)

    def decode(
        self, spectrum: Tensor, table: Tensor, step: int, spatial: torch.Size, bounds: tuple[Any, Any]
    ) -> Tensor:
        """The volume that a quantization table stands for, as the model will see it."""
        scaled = spectrum / table
        rounded = soft_round(scaled, self.softness(step))
        if self.hard_rounding:
            rounded = rounded + (scaled.round() - rounded).detach()
        images = crop((idct(table * rounded, self.block_size, self.axes) + 128) / 255, spatial)
        if self.renorm == "slice":
            images = _stretch_slices(images)
        return images.clamp(*bounds)


def soft_round(values: Tensor, softness: float) -> Tensor:
    """Differentiable rounding: floor(u) + (1 + s tanh(k (u - floor(u) - 1/2))) / 2, s = 1 / (1 - a), k =
    ln(2 / a - 1).

    Equals u on integers, is odd and increasing, stays within 1/2 of u and tends to round(u) as a -> 0.

    Args:
        values: any shape.
        softness: a, strictly between 0 and 1.

    Returns:
        Same shape; the gradient is finite everywhere.

    Raises:
        ValueError: if `softness` is not strictly between 0 and 1.
    """
    if not 0 < softness < 1:
        raise ValueError(f"softness: expected a number strictly between 0 and 1, got {softness}. Use 0.1")
    scale, steepness = 1 / (1 - softness), math.log(2 / softness - 1)
    # Around the middle of the unit interval instead of its start: the curve is exactly odd there.
    middle = values.detach().floor() + 0.5
    return middle + torch.tanh((values - middle) * steepness) * (scale / 2)


def _stretch_slices(images: Tensor) -> Tensor:
    """Every slice of the first two spatial axes stretched to [0, 1]; constant slices stay."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    flat = span < _FLAT
    # The safe divisor keeps 0/0 out of the gradient as well as out of the value.
    stretched = (images - low) / torch.where(flat, torch.ones_like(span), span)
    return torch.where(flat, images, stretched)
