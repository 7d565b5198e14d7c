"""SuPreM's Swin UNETR and SegResNet as targets: 32 organs and tumours of abdominal CT, independent sigmoids.

Source: Li, Yuille and Zhou, How Well Do Supervised 3D Models Transfer to Medical Imaging Tasks?, ICLR 2024
(arXiv 2501.11253). The Swin UNETR is under the head of Liu et al., CLIP-Driven Universal Model, ICCV 2023
(arXiv 2301.00785): a text embedding per organ and the pooled bottleneck make the weights of three 1x1x1
convolutions for that organ. The SegResNet is MONAI's own with 32 outputs.

Differs from the source: the public loader copies weights by their position, here they load by name; the head's
three layers are computed for the organs that are asked for only. Weights are of MONAI 0.9, whose patch merging
reads six of eight neighbors (:class:`~robustvox.models.bring.legacy.LegacyPatchMerging`). The public inference
thresholds every organ at 0.5 and cleans components up afterwards, which is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..header import CheckpointError
from .loaded import Loaded
from .target import InputSpec, Segmenter
from .weights import Origin, Weights, load_by_name, read_weights

CLASS_NAMES: tuple[str, ...] = (
    "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum",
    "hepatic vessel", "right lung", "left lung", "colon", "intestine", "rectum", "bladder", "prostate",
    "left head of femur", "right head of femur", "celiac trunk", "kidney tumor", "liver tumor", "pancreas tumor",
    "hepatic vessel tumor", "lung tumor", "colon tumor", "kidney cyst",
)  # fmt: skip

SWIN = InputSpec(low=-175.0, high=250.0, spacing_mm=(1.5, 1.5, 1.5), roi_size=(96, 96, 96))
SPECS = {"suprem_swin_unetr": SWIN, "suprem_segresnet": replace(SWIN, multiple=8, least=16)}

ORIGIN = Origin(
    file="supervised_suprem_swinunetr_2100.pth or supervised_suprem_segresnet_2100.pth linked by MrGiovanni/SuPreM",
    licence="of the weights: not stated; the repository's code is MIT and says that patents are pending",
)

_EMBEDDED, _REDUCED, _HEAD = 512, 256, 8


class ClipDrivenHead(nn.Module):
    """Swin UNETR's trunk under the CLIP-driven head, with the published names of all weights.

    Args:
        feature_size: of the trunk; 48 is the published one.
        depths: blocks per stage; (2, 2, 2, 2) is the published one.
        organs: number of text embeddings.

    Shape:
        ``(B, 1, *roi)`` to logits ``(B, organs, *roi)``; sides are multiples of 32 and at least 64.
    """

    def __init__(
        self, feature_size: int = 48, depths: Sequence[int] = (2, 2, 2, 2), organs: int = len(CLASS_NAMES)
    ) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinUNETR

        from ..bring.legacy import LegacyPatchMerging

        trunk: Any = SwinUNETR(
            in_channels=1,
            out_channels=1,
            feature_size=feature_size,
            depths=depths,
            downsample=LegacyPatchMerging,  # type: ignore[arg-type]
        )
        # The head takes the last features; the trunk's own output is not used.
        trunk.out = nn.Identity()
        self.backbone = trunk
        bottleneck = 16 * feature_size
        groups = 16 if feature_size % 16 == 0 else 4
        self.precls_conv = nn.Sequential(
            nn.GroupNorm(groups, feature_size), nn.ReLU(), nn.Conv3d(feature_size, _HEAD, 1)
        )
        self.GAP = nn.Sequential(
            nn.GroupNorm(16, bottleneck),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(bottleneck, _REDUCED, 1),
        )
        weights = 2 * _HEAD * _HEAD + _HEAD
        self.controller = nn.Conv3d(2 * _REDUCED, weights + 2 * _HEAD + 1, 1)
        self.register_buffer("organ_embedding", torch.zeros(organs, _EMBEDDED))
        self.text_to_vision = nn.Linear(_EMBEDDED, _REDUCED)

    def forward(self, images: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """Logits of all organs, or of ``channels`` in their order."""
        deep, features = self._trunk(images)
        embedding = self.get_buffer("organ_embedding")
        embedding = embedding if channels is None else embedding[list(channels)]
        organs = F.relu(self.text_to_vision(embedding))
        pooled = self.GAP(deep).flatten(1)
        batch, count = images.shape[0], len(organs)
        condition = torch.cat([pooled[:, None].expand(-1, count, -1), organs[None].expand(batch, -1, -1)], 2)
        parameters = self.controller(condition.reshape(batch * count, -1, 1, 1, 1)).view(batch, count, -1)
        return _dynamic(self.precls_conv(features), parameters)

    def _trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The bottleneck and the last features of the decoder."""
        net = self.backbone
        hidden = net.swinViT(images, net.normalize)
        deep = net.encoder10(hidden[4])
        x = net.decoder5(deep, hidden[3])
        x = net.decoder4(x, net.encoder4(hidden[2]))
        x = net.decoder3(x, net.encoder3(hidden[1]))
        x = net.decoder2(x, net.encoder2(hidden[0]))
        return deep, net.decoder1(x, net.encoder1(images))


def _dynamic(features: Tensor, parameters: Tensor) -> Tensor:
    """Three 1x1x1 convolutions per organ, whose weights ``(B, O, 153)`` come from the controller.

    The controller's numbers are the three weights (8x8, 8x8, 1x8) and then the three biases (8, 8, 1).
    """
    batch, organs, _ = parameters.shape
    sizes = (_HEAD * _HEAD, _HEAD * _HEAD, _HEAD, _HEAD, _HEAD, 1)
    first, second, last, bias1, bias2, bias3 = parameters.split(sizes, 2)
    flat = features.flatten(2)
    x = torch.einsum("boij,bjn->boin", first.view(batch, organs, _HEAD, _HEAD), flat)
    x = F.relu(x + bias1[..., None])
    x = torch.einsum("boij,bojn->boin", second.view(batch, organs, _HEAD, _HEAD), x)
    x = F.relu(x + bias2[..., None])
    x = torch.einsum("boj,bojn->bon", last, x) + bias3
    return x.view(batch, organs, *features.shape[2:])


class SupremSegmenter(Segmenter):
    """Either network under the 32 published names.

    Args:
        network: a :class:`ClipDrivenHead`, or MONAI's SegResNet with 32 outputs.
    """

    channel_names = CLASS_NAMES
    overlapping = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def windows(self, images: Tensor, channels: tuple[int, ...]) -> Tensor:
        if isinstance(self.network, ClipDrivenHead):
            return self.network(images, channels)
        return self.network(images)[:, channels]


def build(name: str, **sizes: Any) -> nn.Module:
    """One of the two networks; ``sizes`` are for tests."""
    if name == "suprem_swin_unetr":
        return ClipDrivenHead(**sizes)
    from monai.networks.nets.segresnet import SegResNet

    published = {"init_filters": 16, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)}
    return SegResNet(in_channels=1, out_channels=len(CLASS_NAMES), **{**published, **sizes})


def load(name: str, path: str | Path | None, **sizes: Any) -> Loaded:
    """One of the two networks with the weights of a published file.

    Raises:
        CheckpointError: no file, anything but exactly its weights, or an output of other classes.
    """
    weights = read_weights(path, name, ORIGIN)
    if name == "suprem_segresnet":
        _check_outputs(weights)
    network = load_by_name(build(name, **sizes), weights, unused=("backbone.out.",))
    return Loaded(segmenter=SupremSegmenter(network), spec=SPECS[name], weights=weights)


def _check_outputs(weights: Weights) -> None:
    last = weights.state.get("conv_final.2.conv.weight")
    if last is not None and last.shape[0] != len(CLASS_NAMES):
        raise CheckpointError(
            f"expected {len(CLASS_NAMES)} outputs, whose names are published, found {last.shape[0]} in "
            f"{weights.name}; bring it with a factory that knows its classes"
        )
