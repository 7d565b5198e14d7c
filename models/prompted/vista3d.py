"""VISTA3D as a target: MONAI's network, asked by class ids or by clicks.

Source: He et al., VISTA3D, CVPR 2025, arXiv 2406.05285; the network is MONAI's ``vista3d132``. Intensities, spacing
and class ids are those of the public bundle (NV-Segment-CT).

Differs from the source: with clicks the bundle moves a window over the volume and joins connected components,
which has no gradient; here one window lies around the clicks of an object, and outside of it nothing is
predicted. The class head answers (classes, batch, ...); logits here are (batch, classes, ...).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cpu import with_contiguous_gradients
from .loaded import Loaded
from .target import InputSpec, Segmenter
from .weights import Origin, load_by_name, read_weights

_SIDES = ("left", "right")
CLASS_NAMES: tuple[str, ...] = (
    "liver", "kidney", "spleen", "pancreas", "right kidney", "aorta", "inferior vena cava", "right adrenal gland",
    "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney", "bladder",
    "prostate or uterus", "portal vein and splenic vein", "rectum", "small bowel", "lung", "bone", "brain",
    "lung tumor", "pancreatic tumor", "hepatic vessel", "hepatic tumor", "colon cancer primaries",
    "left lung upper lobe", "left lung lower lobe", "right lung upper lobe", "right lung middle lobe",
    "right lung lower lobe",
    *(f"vertebrae L{i}" for i in range(5, 0, -1)),
    *(f"vertebrae T{i}" for i in range(12, 0, -1)),
    *(f"vertebrae C{i}" for i in range(7, 0, -1)),
    "trachea", "left iliac artery", "right iliac artery", "left iliac vena", "right iliac vena", "colon",
    *(f"{side} rib {i}" for side in _SIDES for i in range(1, 13)),
    *(f"{side} {bone}" for bone in ("humerus", "scapula", "clavicula", "femur", "hip") for side in _SIDES),
    "sacrum",
    *(f"{side} gluteus {part}" for part in ("maximus", "medius", "minimus") for side in _SIDES),
    *(f"{side} {muscle}" for muscle in ("autochthon", "iliopsoas") for side in _SIDES),
    "left atrial appendage", "brachiocephalic trunk", "left brachiocephalic vein", "right brachiocephalic vein",
    "left common carotid artery", "right common carotid artery", "costal cartilages", "heart", "left kidney cyst",
    "right kidney cyst", "prostate", "pulmonary vein", "skull", "spinal cord", "sternum",
    "left subclavian artery", "right subclavian artery", "superior vena cava", "thyroid gland", "vertebrae S1",
    "bone lesion", "kidney mass", "liver tumor", "vertebrae L6", "airway",
)  # fmt: skip
"""Class ids 1 to 132 of the public bundle, in order."""

SPECIAL = frozenset({23, 24, 25, 26, 27, 57, 128})
"""Class ids whose positive clicks are marked 3 instead of 1, as in MONAI's ``convert_point_label``."""

SPEC = InputSpec(
    low=-963.8247715525971,
    high=1053.678477684517,
    spacing_mm=(1.5, 1.5, 1.5),
    roi_size=(128, 128, 128),
    multiple=16,
    least=32,
)

ORIGIN = Origin(
    file="models/model.pt of MONAI's VISTA3D bundle (NV-Segment-CT)",
    licence=(
        "sources disagree: the table of the publisher's README says NVIDIA Open Model License, its licence section "
        "NVIDIA OneWay Noncommercial License; decide which binds you (the network's code is Apache-2.0)"
    ),
)


class Vista3DSegmenter(Segmenter):
    """VISTA3D, one channel per class id (channel 0 is id 1), independent sigmoids.

    Args:
        network: MONAI's ``VISTA3D``.
    """

    channel_names = CLASS_NAMES
    overlapping = True
    prompt_kinds = ("class", "click", "click_pred")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Without this the gradient of the click head is wrong on a CPU.
        self.network: Any = with_contiguous_gradients(network)

    def windows(self, images: Tensor, channels: tuple[int, ...]) -> Tensor:
        # The parts and not the whole network, whose forward empties the device's cache at every call.
        _, features = self.network.image_encoder(images, with_point=False, with_label=True)
        ids = torch.tensor([[c + 1] for c in channels], device=images.device)
        logits, _ = self.network.class_head(features, ids)
        return logits.transpose(0, 1)

    def clicked(self, image: Tensor, points: Tensor, channel: int) -> Tensor:
        features, _ = self.network.image_encoder(image, with_point=True, with_label=False)
        class_id = channel + 1
        positive = 3 if class_id in SPECIAL else 1
        labels = torch.full((1, len(points)), positive, device=image.device)
        prompt_class = torch.tensor([[class_id]], device=image.device)
        return self.network.point_head(features, points[None], labels, class_vector=prompt_class)


def build(width: int = 48) -> nn.Module:
    """MONAI's network; ``width`` 48 is the published one, other widths are for tests."""
    from monai.networks.nets.vista3d import vista3d132

    return vista3d132(encoder_embed_dim=width, in_channels=1)


def load(name: str, path: str | Path | None, *, width: int = 48) -> Loaded:
    """VISTA3D with the weights of the public bundle.

    Raises:
        CheckpointError: no file, or anything but exactly its weights.
    """
    weights = read_weights(path, name, ORIGIN)
    network = load_by_name(build(width), weights)
    return Loaded(segmenter=Vista3DSegmenter(network), spec=SPEC, weights=weights)
