"""Which cases may be attacked in one batch, and how many: what must not change a case's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustvox.attacks import Attack, Sharing
from robustvox.datasets import Volume
from robustvox.models import SlidingWindow

from ..specs.protocols import Protocol
from .named import NamedAttack, NamedModel

LARGEST = 16
"""Cases in one batch on an accelerator, at most: beyond it a case costs no less."""


@dataclass(frozen=True)
class Company:
    """What cases have in common that may be attacked together.

    Attributes:
        attack: at the spacing of the case.
        predictor: of the attacked model.
        shape: of the image; of the network's window for an attack to which the surroundings of a volume are nothing.
        windows: that cover one case.
    """

    attack: Attack
    predictor: SlidingWindow
    shape: tuple[int, ...]
    windows: int


def company_of(
    attack: NamedAttack, surrogate: NamedModel, volume: Volume, protocol: Protocol
) -> Company | None:
    """The company a case may be attacked in; None where it has to be attacked alone.

    The attack says what it can do, :class:`~robustvox.attacks.Sharing`. The model must be a plain sliding window: one
    that reads files for itself or is prompted differs from case to case. Volumes that one window holds are placed in
    it as the window itself would place them, with zeros around; larger ones must have one shape.

    Args:
        attack: as it is registered.
        surrogate: as it reads the case, see :meth:`~robustvox.benchmark.craft.named.NamedModel.for_case`.
        volume: the case.
        protocol: of the run.

    Example:
        >>> from robustvox.attacks import PGD, VAFA
        >>> from robustvox.benchmark.specs.protocols import PROTOCOLS
        >>> from robustvox.datasets import open_dataset
        >>> volume = open_dataset("phantom").load("val_000")
        >>> model = NamedModel("conv", "", SlidingWindow(nn.Conv3d(1, 8, 1), (96, 96, 96)))
        >>> rules = PROTOCOLS["robustvox-1"]
        >>> [company_of(NamedAttack("", one), model, volume, rules).shape for one in (PGD(), VAFA())]
        [(1, 96, 96, 96), (1, 68, 46, 37)]
    """
    predictor, fitted = surrogate.predictor, attack.attack.at_spacing(volume.spacing_mm)
    # A subclass may see more of a volume than its windows.
    if protocol.tiling or type(predictor) is not SlidingWindow or surrogate.prompted is not None:
        return None
    if fitted.shares is Sharing.ALONE or _mixes(predictor.network):
        return None
    shape = tuple(volume.image.shape)
    fits = all(side <= roi for side, roi in zip(shape[1:], predictor.roi_size, strict=True))
    if fits and fitted.shares is Sharing.ANY_SHAPES and predictor.padding == "zeros":
        shape = (shape[0], *predictor.roi_size)
    return Company(fitted, predictor, shape, predictor.count(shape[1:]))


def most_together(
    predictor: SlidingWindow, channels: int, windows: int, asked: int | str, device: str
) -> int:
    """How many cases a batch holds.

    Args:
        predictor: of the attacked model.
        channels: of the images.
        windows: that cover one case.
        asked: a number, or ``"auto"``: one on a CPU, where a batch gains nothing, and on an accelerator as many as fill
            the windows that its memory holds at once, at most :data:`LARGEST`.
        device: where the network is.
    """
    if isinstance(asked, int):
        return asked
    if torch.device(device).type == "cpu":
        return 1
    window = torch.zeros(1, channels, *predictor.roi_size, device=device)
    return max(1, min(LARGEST, predictor.batch_size(window) // windows))


def _mixes(network: nn.Module) -> bool:
    """Whether a network's output for one sample depends on the others even in eval mode."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is None for module in network.modules())
