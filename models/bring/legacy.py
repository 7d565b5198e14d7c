"""What older MONAI computed, for weights that were trained with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import PatchMerging
from torch import Tensor

OCTANTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""Offsets of the voxels that are merged, in order: two come twice, and (1,1,0) and (0,1,1) never."""


class LegacyPatchMerging(PatchMerging):
    """Patch merging of MONAI before 1.5, for volumes.

    The published Swin-UNETR reads only six of the eight voxels that it merges, two of them twice. MONAI 1.5 reads
    all eight; names and shapes of the weights are the same, so that old weights load there and give other logits.

    Source: MONAI 1.3.0, `monai.networks.nets.swin_unetr.PatchMerging`.

    Shape:
        (B,X,Y,Z,C) to (B,ceil(X/2),ceil(Y/2),ceil(Z/2),2C).

    Example:
        >>> import torch
        >>> LegacyPatchMerging(dim=4)(torch.zeros(1, 4, 2, 3, 4)).shape
        torch.Size([1, 2, 1, 2, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5:
            return super().forward(x)
        # Odd sides are padded at their end; F.pad starts with the last axis, here the channels.
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        octants = [x[:, i::2, j::2, k::2] for i, j, k in OCTANTS]
        return self.reduction(self.norm(torch.cat(octants, -1)))
