"""VAFA2D: VAFA slice by slice, with blocks of two axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .base import Sharing
from .vafa import VAFA


@dataclass(frozen=True, kw_only=True)
class VAFA2D(VAFA):
    """Volumetric adversarial frequency attack with a 2D DCT in every slice.

    VAFA with squares of the first two spatial axes in place of cubes: one quantization table per sample,
    channel, slice and square, so the transform never mixes slices (the model still may). With c = DCT2(255 x -
    128), u = c / q and the soft rounding phi (see `vafa.soft_round`):

        x'(q) = clamp((IDCT2(q * phi(u)) + 128) / 255, 0, 1)
        q <- clamp(q + sign(grad_q [L(f(x'), y) - ssim_weight * (1 - SSIM(x, x'))]), q_min, q_max)

    On 2D images it is VAFA. Nothing bounds the L-inf norm unless `eps` is given; per square ||x' - x||_2 <= r
    * q_max * n / 255 with r = max |phi(u) - u| <= 0.5 (renorm "none"). Compare with other attacks at equal L2
    or SSIM, not at equal q_max. steps + 1 forwards, steps backwards.

    Source: VAFA-2D, the baseline of Hanif et al., "Frequency Domain Adversarial Training for Robust Volumetric
        Medical Segmentation", MICCAI 2023, arXiv 2307.07269; code asif-hanif/vafa @83bdd07; an adaptation of
        AdvDrop, Duan et al., ICCV 2021, arXiv 2108.09034.
    Differs from the source: all that VAFA does (no stretch of slices, clamp before the model, best evaluated
        table, padding, no state between calls); 20 steps as in the paper, where the code always ran 10; slices
        may have unequal sides, which the code swaps; q_min is 1, the code has 5; the SSIM term, which the code
        lacks here, can be switched on.

    Args:
        q_max: largest quantization step on the 0-255 scale, >= q_min.
        q_min: smallest quantization step on the 0-255 scale, > 0.
        q_init: "max" starts at q_max (published code), "one" at 1 clamped to the range (paper).
        block_size: side of the squares in voxels, >= 1.
        steps: updates of the table, >= 0; 0 returns the start point.
        ssim_weight: weight of 1 - SSIM over the whole volume, >= 0; 0, as in the code, skips it.
        renorm: "none"; "slice" stretches every slice to [0, 1], only to compare with published tables, see
            `VAFA`.
        hard_rounding: evaluate and return truly rounded coefficients, with the gradient of the soft
            rounding.
        loss: key of `losses.LOSSES`.
        eps: None for no L-inf bound; a radius in [0, 1] projects every evaluated volume on that ball as
            well.

    Shape: images (B, C, h, w, *slices), labels (B, 1, h, w, *slices), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: as VAFA.

    Example:
        >>> from robustvox.attacks import VAFA2D, tiny_case
        >>> VAFA2D(steps=3)(*tiny_case()).shape
        torch.Size([1, 1, 8, 9, 10])
    """

    sharing = Sharing.EQUAL_SHAPES

    axes: ClassVar[Sequence[int] | None] = (2, 3)

    block_size: int = 8
    ssim_weight: float = 0.0
