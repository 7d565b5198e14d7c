"""Steps along smoothed gradients, which transfer, and noise of the same smoothness as their control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import checks
from .base import LinfAttack, Sharing, ball
from .blur import blur
from .mifgsm import MIFGSM
from .sign_gradient import StepRule
from .task import Task


@dataclass(frozen=True, kw_only=True)
class Smooth(MIFGSM):
    """Momentum iterative attack along spatially smoothed gradients, translation-invariant style.

    Blurs every gradient before it is accumulated: g_{t+1} = momentum * g_t + W * grad L / ||W * grad L||_1,
    x_{t+1} = clamp(x_t + alpha * sign(g_{t+1}), lo, hi), with W a Gaussian of `sigma` voxels along every
    axis. Blurring the gradient stands for attacking many shifted copies of the volume at once; what remains is a
    perturbation of low frequency that fits other networks as well as the one it was made on. With sigma 0 this
    is MIFGSM. steps + 1 forwards, steps backwards.

    Source: Dong et al., "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant
        Attacks", CVPR 2019, arXiv 1904.02884; momentum as in arXiv 1710.06081.
    Differs from the source: volumes of any rank, where the source has images; a Gaussian of 1.5 voxels cut at
        three standard deviations, where the source has one of 15 pixels side and standard deviation 3; the
        kernel leaves the border as it is, with zeros beyond it; `alpha`, the best visited point and the loss are
        those of MIFGSM.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        alpha: step in intensity units, in [0, 1]; None means max(eps / 4, 2.5 * eps / steps), at most eps.
        steps: gradient steps, >= 0; 0 returns the clean volume.
        momentum: weight of the accumulated gradients against the new one, >= 0; 1 forgets nothing.
        loss: key of `losses.LOSSES`.
        sigma: standard deviation of the blur in voxels, in [0, 100]; 0 leaves gradients as they are.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if a hyper-parameter is out of range.

    Example:
        >>> from robustvox.attacks import MIFGSM, Smooth, tiny_case
        >>> plain, unblurred = MIFGSM(steps=3), Smooth(sigma=0, steps=3)
        >>> bool((plain(*tiny_case()) == unblurred(*tiny_case())).all())
        True
    """

    sharing = Sharing.EQUAL_SHAPES

    sigma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("sigma", self.sigma, 0.0, 100.0, hint="Voxels, 1.5 by default")

    def step_rule(self) -> StepRule:
        accumulate = super().step_rule()
        return lambda gradient: accumulate(blur(gradient, self.sigma))


@dataclass(frozen=True, kw_only=True)
class SmoothNoise(LinfAttack):
    """Signs of smoothed noise, at the edge of the L-inf ball.

    Every voxel moves by eps: x' = clamp(x + eps * sign(W * n), 0, 1), n ~ N(0, 1), with W a Gaussian of `sigma`
    voxels along every axis. The perturbation has the budget and the smoothness of Smooth and knows nothing of the
    network, which makes it the fair control. The model is not called.

    Source: ours, as the control of Smooth.
    Differs from the source: there is none.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        sigma: standard deviation of the blur in voxels, in [0, 100]; 0 gives independent signs.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the noisy images.
    Raises: ValueError: if a hyper-parameter is out of range.

    Example:
        >>> from robustvox.attacks import SmoothNoise, tiny_case
        >>> model, images, labels = tiny_case()
        >>> added = SmoothNoise(eps=4 / 255)(model, images, labels) - images
        >>> bool(added.abs().max() <= 4 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    takes_targets: ClassVar[bool] = False

    sigma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("sigma", self.sigma, 0.0, 100.0, hint="Voxels, 1.5 by default")

    def perturb(self, task: Task) -> Tensor:
        # Where the blur is exactly zero no sign is drawn; a normal draw has no zeros that matter.
        signs = blur(task.noise(torch.randn), self.sigma).sign()
        return (task.images + self.eps * signs).clamp(*ball(task.images, self.eps))
