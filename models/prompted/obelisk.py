"""The two OBELISK networks as targets: how their input was prepared, as far as it can be known.

The published preparation crops every scan by hand to the abdominal organs (corners in a table, in voxels) and
resizes the crop to 144^3, whatever its spacing; arrays run to the left, to the front and down. The box of the body
takes the place of the crop by hand here.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..obelisk import CLASS_NAMES, ROI, ObeliskHybrid, ObeliskUNet
from .loaded import Loaded
from .target import InputSpec, Segmenter
from .weights import Origin, load_by_name, read_weights

AXES = "LAI"
"""Left, front, down: what c3d makes of the DICOM series. On the sample CT it is the only one of the eight
orientations along these axes with a liver Dice above 0.85 in both networks."""

SPECS = {
    "obelisk_hybrid": InputSpec(low=-1024.0, high=0.0, clip=False, axes=AXES, size=ROI, body_box=True, roi_size=ROI, multiple=8),
    "obelisk_unet": InputSpec(low=0.0, high=1.0, clip=False, axes=AXES, size=ROI, body_box=True, roi_size=ROI, multiple=8),
}  # fmt: skip
"""The hybrid sees HU / 1024 + 1, the U-Net HU as they are."""

NETWORKS: dict[str, type[nn.Module]] = {"obelisk_hybrid": ObeliskHybrid, "obelisk_unet": ObeliskUNet}


class ObeliskSegmenter(Segmenter):
    """One of the two networks under its published channels.

    Args:
        network: maps ``(B, 1, *roi)`` to nine logits.
    """

    channel_names = CLASS_NAMES

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def windows(self, images: Tensor, channels: tuple[int, ...]) -> Tensor:
        return self.network(images)[:, channels]


ORIGIN = Origin(
    file="obeliskhybrid_tcia_fold1.pth or allconvunet_tcia_fold1.pth of the repository mattiaspaul/OBELISK, folder models",
    licence="MIT, Copyright (c) 2018 M. Heinrich; trained on NIH Pancreas-CT (TCIA) with labels of Gibson et al.",
)


def load(name: str, path: str | Path | None) -> Loaded:
    """One of the two networks with the weights of a published file.

    Raises:
        CheckpointError: no file, or anything but exactly its weights.
    """
    weights = read_weights(path, name, ORIGIN)
    network = load_by_name(NETWORKS[name](), weights)
    return Loaded(segmenter=ObeliskSegmenter(network), spec=SPECS[name], weights=weights)
