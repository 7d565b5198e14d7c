"""SA2: an attack on volumes that scales the coefficients of their local spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checks
from .base import LossAttack, Sharing, limits
from .dct import crop, dct, idct, pad_to_blocks
from .spectral import climb
from .task import Task

_BANDS = ("low", "middle", "high")
_RULES = ("index_sum", "equal_count")


@dataclass(frozen=True, kw_only=True)
class SA2(LossAttack):
    """Spectrum attack (SAA): learned factors on the coefficients of local DCT blocks.

    Cuts the volume into cubes (squares in 2D) and multiplies every coefficient of their orthonormal DCT, the
    mean excepted, by its own factor xi within rho of 1; per sample it starts at random:

        x'(xi) = clamp(IDCT(DCT(x - 1/2) * xi) + 1/2, 0, 1),   xi_0 ~ U[1 - rho, 1 + rho]
        xi <- clamp(xi + beta * sign(grad_xi [loss_weight * L(f(x'), y) - ssim_weight * (1 - SSIM(x, x'))]),
                    1 - rho, 1 + rho)

    xi is exactly 1 on the mean of a block and outside the band: before the clamp to [0, 1] every block keeps
    its mean, and a constant block does not change. Nothing bounds the L-inf norm unless `eps` is given; per
    block ||x' - x||_2 <= rho * ||x - mean||_2. Compare with other attacks at equal L2 or SSIM. steps + 1
    forwards, steps backwards.

    Source: "On Frequency Domain Adversarial Vulnerabilities of Volumetric Medical Image Segmentation", ISBI
        2025; code asif-hanif/saa @f5d2069.
    Differs from the source: the volume is clamped before the model sees it, and the gradient stops at the
        clamp; the factors of the mean and outside the band are 1 in every evaluated point; the returned volume
        belongs to the best evaluated factors per sample and not to those before the last update; random
        numbers come from the caller's generator; beta follows rho (the code has 0.1 for every rho, rho / 2 at
        its default 0.2); 20 steps and both terms of the objective at weight 1, where the class in the code
        has 10 steps and SSIM off; sides that the block does not divide are padded by replication and cropped;
        any rank; bands of equal size as an option.

    Args:
        rho: largest relative change of a coefficient, >= 0; 0 returns the images.
        beta: step of a factor, >= 0; None means rho / 2.
        block_size: side of the cubic blocks in voxels, >= 2.
        steps: updates of the factors, >= 0; 0 returns the start point.
        band: coefficients that may change: "all", "low", "middle", "high"; see `band_mask`.
        band_rule: "index_sum", the published bands, of which the middle holds nearly everything, or
            "equal_count", three bands with equally many coefficients, whose results can be compared.
        loss: key of `losses.LOSSES`.
        loss_weight: weight of the loss, > 0.
        ssim_weight: weight of 1 - SSIM over the whole volume, >= 0; 0 skips it.
        eps: None for no L-inf bound; a radius in [0, 1] projects every evaluated volume on that ball as
            well.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if a hyper-parameter is out of range or the band is empty.

    Example:
        >>> from robustvox.attacks import SA2, tiny_case
        >>> model, images, labels = tiny_case()
        >>> adversarial = SA2(rho=0.2, steps=3)(model, images, labels)
        >>> bool((adversarial - images).norm() <= 0.2 * images.norm())
        True
    """

    sharing = Sharing.EQUAL_SHAPES

    rho: float = 0.2
    beta: float | None = None
    block_size: int = 8
    steps: int = 20
    band: str = "all"
    band_rule: str = "index_sum"
    loss: str = "dice_ce"
    loss_weight: float = 1.0
    ssim_weight: float = 1.0
    eps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real(
            "rho", self.rho, 0.0, hint="rho is a share of every coefficient: write 0.2 for 20 percent"
        )
        if self.beta is None:
            object.__setattr__(self, "beta", self.rho / 2)
        checks.real("beta", self.beta, 0.0)
        checks.whole("block_size", self.block_size, 2)
        checks.whole("steps", self.steps, 0)
        checks.choice("band", self.band, ("all", *_BANDS))
        checks.choice("band_rule", self.band_rule, _RULES)
        checks.real("loss_weight", self.loss_weight, 0.0)
        if self.loss_weight == 0:
            raise ValueError(
                "loss_weight: expected a number > 0, got 0. Without the loss nothing is attacked"
            )
        checks.real("ssim_weight", self.ssim_weight, 0.0)
        if self.eps is not None:
            checks.budget("eps", self.eps)
        if not bool(band_mask(self.block_size, 2, self.band, self.band_rule).any()):
            raise ValueError(
                f"band: expected a band with coefficients, got {self.band!r}, which is empty at "
                f"block_size = {self.block_size}. Use block_size >= 4 or band_rule='equal_count'"
            )

    @property
    def radius(self) -> float | None:
        return 0.0 if self.rho == 0 else self.eps

    @property
    def step_size(self) -> float:
        """`beta` after its default was resolved."""
        return 0.0 if self.beta is None else self.beta

    def perturb(self, task: Task) -> Tensor:
        bounds = limits(task.images, self.eps)
        mask = self.mask(task.images)
        spectrum = self.spectrum(task.images, mask)
        return climb(
            task,
            self.start(task, mask),
            steps=self.steps,
            decode=lambda change, _: self.decode(task.images, spectrum, change, bounds),
            update=lambda change, gradient: change.add_(gradient.sign_(), alpha=self.step_size).clamp_(
                -self.rho, self.rho
            ),
            loss=self.loss,
            loss_weight=self.loss_weight,
            ssim_weight=self.ssim_weight,
        )

    def mask(self, images: Tensor) -> Tensor:
        """Where a coefficient may change, for every block of the padded volume, bool (*padded)."""
        grid = [-(-side // self.block_size) for side in images.shape[2:]]
        mask = band_mask(self.block_size, len(grid), self.band, self.band_rule)
        return mask.tile(grid).to(images.device)

    def spectrum(self, images: Tensor, mask: Tensor) -> Tensor:
        """Coefficients that may change, (B, C, *padded), and zero elsewhere.

        Their gradient is zero elsewhere too, so a factor that starts at 1 there stays at 1.
        """
        padded = corner = pad_to_blocks(images, self.block_size)
        for axis in range(2, padded.ndim):
            index = torch.arange(padded.shape[axis], device=padded.device)
            corner = corner.index_select(axis, index - index % self.block_size)
        # An offset per block is in its mean alone. Measured from their corner voxel instead of from 1/2,
        # constant blocks are exactly zero and come back bit for bit.
        return dct(padded - corner, self.block_size) * mask

    def start(self, task: Task, mask: Tensor) -> Tensor:
        """Random xi - 1, (B, C, *padded), drawn per sample; 0 outside the mask."""
        shape, dtype = (task.images.shape[1], *mask.shape), task.images.dtype
        drawn = [torch.rand(shape, generator=stream, dtype=dtype) for stream in task.streams]
        return (torch.stack(drawn).to(task.images.device) * 2 - 1) * self.rho * mask

    def decode(self, images: Tensor, spectrum: Tensor, change: Tensor, bounds: tuple[Any, Any]) -> Tensor:
        """The volume that factors xi = 1 + change stand for, as the model will see it.

        The DCT is linear: IDCT(DCT(x) * xi) = x + IDCT(DCT(x) * change), and where nothing changes the second
        form returns the images exactly.
        """
        moved = idct(spectrum * change, self.block_size)
        return (images + crop(moved, images.shape[2:])).clamp(*bounds)


def band_mask(block_size: int, rank: int, band: str = "all", rule: str = "index_sum") -> Tensor:
    """Which coefficients of a block belong to a band; the mean belongs to none.

    Coefficients are ordered by the sum m of their indices. With n the side of the block, r its rank and t = n
    // 2 - 1, rule "index_sum" has low: m <= t, high: m >= r (n - 1) - t, middle: the rest. For r = 2 and r = 3
    these are the published bands (high: m >= 3n/2 - 1 and m >= 5n/2 - 2, n even), the same rule serves any
    rank. Counted with the mean in "low", cubes of side 8, 16, 32 have 20/472/20, 120/3856/120, 816/31136/816.
    Rule "equal_count" cuts the n^r - 1 coefficients into three sets whose sizes differ by at most one, equal
    sums in row-major order.

    Args:
        block_size: side n of the block, >= 1.
        rank: number r of axes.
        band: "all", "low", "middle" or "high". The last three are disjoint and make up "all".
        rule: "index_sum" or "equal_count".

    Returns:
        Bool, (n, ..., n), False at index (0, ..., 0).

    Raises:
        ValueError: if the band or the rule is unknown.
    """
    checks.choice("band", band, ("all", *_BANDS))
    checks.choice("band_rule", rule, _RULES)
    side = torch.arange(block_size)
    sums = torch.stack(torch.meshgrid(*[side] * rank, indexing="ij")).sum(0)
    if band == "all":
        return sums > 0
    if rule == "index_sum":
        reach = block_size // 2 - 1
        low, high = sums <= reach, sums >= rank * (block_size - 1) - reach
        chosen = {"low": low, "middle": ~(low | high), "high": high}[band]
        return chosen & (sums > 0)
    order = sums.flatten().argsort(stable=True)[1:]
    third = _BANDS.index(band)
    picked = order[order.numel() * third // 3 : order.numel() * (third + 1) // 3]
    return torch.zeros(sums.numel(), dtype=torch.bool).index_fill_(0, picked, True).view_as(sums)
