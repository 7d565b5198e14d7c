"""SAM-Med3D as a target, over the package ``segment_anything`` of its repository that the user has installed.

Source: Wang et al., SAM-Med3D, arXiv 2310.15161. One object per pass, asked by clicks, in a window of 128^3 at
1.5 mm. The network has no names of organs: every class of the data can be clicked on.

Differs from the source: the public inference draws clicks and crops from the ground truth; here both follow from
clicks that were fixed before. The z-score over the positive voxels of the window is inside the graph; which voxels
are positive can change under an attack, so the logits are not continuous there.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..header import CheckpointError
from .loaded import Loaded
from .target import InputSpec, Segmenter
from .weights import Origin, load_by_name, read_weights

SPEC = InputSpec(
    low=0.0, high=1.0, clip=False, spacing_mm=(1.5, 1.5, 1.5), roi_size=(128, 128, 128), multiple=128
)

ORIGIN = Origin(
    file="sam_med3d_turbo.pth of uni-medical/SAM-Med3D",
    licence="Apache-2.0 (code and weights, as the repository says)",
)

PACKAGE = "segment_anything.build_sam3D"
KIND = "vit_b_ori"


class SamMed3DSegmenter(Segmenter):
    """SAM-Med3D's image encoder, prompt encoder and mask decoder as one differentiable function.

    Args:
        network: with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``.
    """

    channel_names = ()
    overlapping = True
    prompt_kinds = ("click",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        taken = inspect.signature(self.network.mask_decoder.forward).parameters
        self.extra = {"multimask_output": False} if "multimask_output" in taken else {}

    def clicked(self, image: Tensor, points: Tensor, channel: int) -> Tensor:
        del channel  # it has no names of organs; the click says which
        net = self.network
        embedded = net.image_encoder(normalized(image))
        labels = torch.ones((1, len(points)), dtype=torch.int64, device=image.device)
        # The first click comes with an empty mask, as in the public inference.
        empty = image.new_zeros((1, 1, *(side // 4 for side in image.shape[2:])))
        sparse, dense = net.prompt_encoder(points=[points[None], labels], boxes=None, masks=empty)
        masks, _ = net.mask_decoder(
            image_embeddings=embedded,
            image_pe=net.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            **self.extra,
        )
        return F.interpolate(masks[:, :1], size=tuple(image.shape[2:]), mode="trilinear", align_corners=False)


def normalized(image: Tensor) -> Tensor:
    """Zero mean and unit deviation over the positive voxels; unchanged where there are fewer than two.

    Example:
        >>> normalized(torch.tensor([-5.0, 1.0, 3.0])).tolist()[1:]
        [-0.7071067690849304, 0.7071067690849304]
    """
    positive = image[image > 0]
    if positive.numel() < 2:
        return image
    return (image - positive.mean()) / positive.std().clamp_min(1e-8)


def load(name: str, path: str | Path | None) -> Loaded:
    """SAM-Med3D with the user's weights.

    Raises:
        CheckpointError: no package, no file, or anything but exactly its weights.
    """
    try:
        registry = importlib.import_module(PACKAGE).sam_model_registry3D
    except (ImportError, AttributeError):
        raise CheckpointError(
            f"expected the package segment_anything of uni-medical/SAM-Med3D for {name}, found none with a 3D "
            "network; clone the repository and put it on PYTHONPATH"
        ) from None
    weights = read_weights(path, name, ORIGIN)
    network = load_by_name(registry[KIND](checkpoint=None), weights)
    return Loaded(segmenter=SamMed3DSegmenter(network), spec=SPEC, weights=weights)
