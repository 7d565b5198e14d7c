"""Controls: noise that knows nothing of the model. Any attack must beat them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import checks
from .base import Attack, LinfAttack, Sharing, ball
from .task import Task


@dataclass(frozen=True, kw_only=True)
class GN(Attack):
    """Gaussian noise.

    Adds independent normal noise to every voxel: x' = clamp(x + std * n, 0, 1), n ~ N(0, 1). The model
    is not called. This is no L-inf attack: single voxels move by any number of `std`.

    Source: the usual baseline, e.g. Kim, "Torchattacks", arXiv 2010.01950.
    Differs from the source: `std` is in intensity units, not on a 0-255 scale.

    Args:
        std: standard deviation in intensity units, >= 0.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the noisy images.
    Raises: ValueError: if `std` is negative or not finite.

    Example:
        >>> import torch
        >>> from robustvox.attacks import GN
        >>> images, labels = torch.full((1, 1, 8, 8, 8), 0.5), torch.zeros(1, 1, 8, 8, 8, dtype=torch.int64)
        >>> noisy = GN(std=0.1)(torch.nn.Conv3d(1, 2, 1), images, labels)
        >>> round((noisy - images).std().item(), 1)
        0.1
    """

    sharing = Sharing.ANY_SHAPES

    takes_targets: ClassVar[bool] = False

    std: float = 8 / 255

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("std", self.std, 0.0, hint="Images live in [0, 1]: write 8/255")

    @property
    def radius(self) -> float | None:
        return 0.0 if self.std == 0 else None

    def perturb(self, task: Task) -> Tensor:
        return (task.images + self.std * task.noise(torch.randn)).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class Uniform(LinfAttack):
    """Uniform or corner noise inside the L-inf ball.

    Adds independent noise of at most `eps` to every voxel: x' = clamp(x + eps * u, 0, 1) with
    u ~ U(-1, 1), or u = -1 or +1 with equal odds if `corners`. The model is not called. It has the
    budget of FGSM and PGD, which makes it their fair control.

    Source: the random start of Madry et al., ICLR 2018, arXiv 1706.06083, on its own.
    Differs from the source: no step follows; `corners` puts every voxel on the edge of the ball.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        corners: random signs times `eps` in place of uniform values.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the noisy images.
    Raises: ValueError: if `eps` is not in [0, 1].

    Example:
        >>> from robustvox.attacks import Uniform, tiny_case
        >>> model, images, labels = tiny_case()
        >>> bool((Uniform(eps=4 / 255)(model, images, labels) - images).abs().max() <= 4 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    takes_targets: ClassVar[bool] = False

    corners: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("corners", self.corners)

    def perturb(self, task: Task) -> Tensor:
        unit = task.noise(torch.rand) * 2 - 1
        if self.corners:
            unit = torch.where(unit < 0, -1.0, 1.0).to(unit.dtype)
        return (task.images + self.eps * unit).clamp(*ball(task.images, self.eps))
