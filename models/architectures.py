"""The convolutional and transformer architectures: MONAI's networks in published and in small sizes.

Source: UNet (Kerfoot et al., STACOM 2018), SegResNet (Myronenko, arXiv 1810.11654), UNETR (Hatamizadeh et
al., arXiv 2103.10504), Swin-UNETR (Hatamizadeh et al., arXiv 2201.01266), configured as in the benchmark of
arXiv 2406.08486. MONAI does the work; here are the two sizes of each, and what each asks of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .roi import check_roi

SIZES = ("paper", "small")


def unet(
    *, in_channels: int, num_classes: int, roi_size: Sequence[int], size: str = "paper", **overrides: Any
) -> nn.Module:
    """Residual UNet: five levels in ``paper`` size, four in ``small``."""
    from monai.networks.nets.unet import UNet

    channels = {"paper": (16, 32, 64, 128, 256), "small": (16, 32, 64, 96)}[size]
    arguments: dict[str, Any] = {"channels": channels, "num_res_units": 2, **overrides}
    arguments.setdefault("strides", (2,) * (len(arguments["channels"]) - 1))
    # Instance norm at the coarsest level needs more than one voxel.
    divisor = math.prod(arguments["strides"])
    check_roi("unet", roi_size, divisor, single_voxel=False, ranks=(2, 3))
    return UNet(spatial_dims=len(roi_size), in_channels=in_channels, out_channels=num_classes, **arguments)


def segresnet(
    *, in_channels: int, num_classes: int, roi_size: Sequence[int], size: str = "paper", **overrides: Any
) -> nn.Module:
    """SegResNet: 32 filters and four levels in ``paper`` size, 8 filters in ``small``."""
    from monai.networks.nets.segresnet import SegResNet

    sizes: dict[str, dict[str, Any]] = {
        "paper": {"init_filters": 32, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)},
        "small": {"init_filters": 8, "blocks_down": (1, 1, 2, 2), "blocks_up": (1, 1, 1)},
    }
    arguments = {**sizes[size], **overrides}
    check_roi("segresnet", roi_size, 2 ** (len(arguments["blocks_down"]) - 1), ranks=(2, 3))
    return SegResNet(
        spatial_dims=len(roi_size), in_channels=in_channels, out_channels=num_classes, **arguments
    )


def unetr(
    *, in_channels: int, num_classes: int, roi_size: Sequence[int], size: str = "paper", **overrides: Any
) -> nn.Module:
    """UNETR: a vision transformer over patches of 16, convolutional decoder; weights are tied to ``roi_size``."""
    from monai.networks.nets.unetr import UNETR

    sizes: dict[str, dict[str, Any]] = {
        "paper": {
            "feature_size": 16,
            "hidden_size": 768,
            "mlp_dim": 3072,
            "num_heads": 12,
            "proj_type": "perceptron",
        },
        "small": {
            "feature_size": 8,
            "hidden_size": 64,
            "mlp_dim": 256,
            "num_heads": 4,
            "proj_type": "perceptron",
        },
    }
    check_roi("unetr", roi_size, 16, ranks=(2, 3))
    arguments = {**sizes[size], **overrides}
    return UNETR(
        in_channels=in_channels,
        out_channels=num_classes,
        img_size=tuple(roi_size),
        spatial_dims=len(roi_size),
        **arguments,
    )


def swin_unetr(
    *, in_channels: int, num_classes: int, roi_size: Sequence[int], size: str = "paper", **overrides: Any
) -> nn.Module:
    """Swin-UNETR: as published in ``paper`` size; ``small`` is narrow and stops at stride 16 (see class below).

    The published trainer sets ``use_checkpoint=True``, which computes every transformer block twice to keep less; values
    are the same. Here it is off: the sliding window keeps what fits. ``swin_unetr:use_checkpoint=true`` is for small cards.
    """
    if size == "small":
        check_roi("swin_unetr", roi_size, 16, minimum=32, ranks=(2, 3))
        arguments = {
            "feature_size": 12,
            "depths": (2, 2, 2, 1),
            "num_heads": (2, 2, 4, 4),
            "window_size": 4,
            **overrides,
        }
        return _shallow_swin_unetr(in_channels, num_classes, len(roi_size), arguments)
    from monai.networks.nets.swin_unetr import SwinUNETR

    # Stride 32 leaves one voxel at a side of 32, on which instance norm is undefined.
    check_roi("swin_unetr", roi_size, 32, minimum=64, ranks=(2, 3))
    arguments = {"feature_size": 48, **overrides}
    return SwinUNETR(
        in_channels=in_channels, out_channels=num_classes, spatial_dims=len(roi_size), **arguments
    )


def _shallow_swin_unetr(
    in_channels: int, num_classes: int, spatial_dims: int, arguments: dict[str, Any]
) -> nn.Module:
    from monai.networks.nets.swin_unetr import SwinUNETR

    class ShallowSwinUNETR(SwinUNETR):
        """Swin-UNETR without its deepest stage (stride 32).

        Half of all weights sit in that stage, which on windows of 48 voxels would see a single token; without
        it a window needs multiples of 16 only.
        """

        def __init__(self) -> None:
            super().__init__(
                in_channels=in_channels, out_channels=num_classes, spatial_dims=spatial_dims, **arguments
            )
            del self.encoder10, self.decoder5
            self.swinViT.layers4 = nn.ModuleList([nn.Identity()])

        def forward(self, x_in: Tensor) -> Tensor:
            hidden = self.swinViT(x_in, self.normalize)
            x = self.decoder4(hidden[3], self.encoder4(hidden[2]))
            x = self.decoder3(x, self.encoder3(hidden[1]))
            x = self.decoder2(x, self.encoder2(hidden[0]))
            x = self.decoder1(x, self.encoder1(x_in))
            return self.out(x)

    return ShallowSwinUNETR()
