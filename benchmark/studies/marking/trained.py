"""The remover that learns: a residual network an attacker trains on marks of his own making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn
from torch.nn import functional as F

_STRIDE = 4  # sides have to be multiples of it


@dataclass(frozen=True, kw_only=True)
class RemoverRecipe:
    """How the network is trained.

    Args:
        steps: gradient steps.
        batch: crops per step.
        side: of the crops, voxels.
        learning_rate: of Adam at the start; it falls to zero along a cosine.
        channels: of the network's levels.
        bound: most that the mark moves a voxel; the attacker knows how marks are made.
        seed: of weights and crops.
    """

    steps: int = 600
    batch: int = 4
    side: int = 32
    learning_rate: float = 2e-3
    channels: tuple[int, ...] = (16, 32, 64)
    bound: float = 16 / 255
    seed: int = 0


class ResidualRemover(nn.Module):
    """A small 3D U-Net that estimates the mark, bound * tanh(network), and subtracts it.

    Shape: ``(B, C, *spatial)`` in [0, 1] to the same, any size.
    """

    def __init__(self, channels_in: int, channels: Sequence[int], bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.network = UNet(
            spatial_dims=3,
            in_channels=channels_in,
            out_channels=channels_in,
            channels=tuple(channels),
            strides=(2,) * (len(channels) - 1),
            num_res_units=1,
        )

    def forward(self, images: Tensor) -> Tensor:
        pads = [pad for side in reversed(images.shape[2:]) for pad in (0, -side % _STRIDE)]
        mark = self.bound * torch.tanh(self.network(F.pad(images, pads, mode="replicate")))
        return images - mark[(..., *(slice(side) for side in images.shape[2:]))]

    @torch.no_grad()
    def remove(self, image: np.ndarray) -> np.ndarray:
        """One image ``(C, *spatial)`` without what the network takes for the mark."""
        device = next(self.parameters()).device
        cleaned = self(torch.from_numpy(image)[None].to(device))[0].clamp(0, 1)
        return cleaned.cpu().numpy()


def train_remover(
    marked: Sequence[np.ndarray], clean: Sequence[np.ndarray], recipe: RemoverRecipe, device: str = "cpu"
) -> ResidualRemover:
    """Train on pairs of images ``(C, *spatial)``; equal arguments give an equal network on one machine.

    Raises:
        ValueError: if there is no pair, or one whose sizes differ.
    """
    if not marked or any(a.shape != b.shape for a, b in zip(marked, clean, strict=True)):
        raise ValueError(
            "expected at least one marked volume, each with an original of its size; mark some first"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        remover = ResidualRemover(marked[0].shape[0], recipe.channels, recipe.bound).to(device)
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.Adam(remover.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(recipe.steps, 1))
    for _ in range(recipe.steps):
        crops = [
            _crop(marked[i], clean[i], recipe.side, rng) for i in rng.integers(len(marked), size=recipe.batch)
        ]
        inputs, originals = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*crops, strict=True))
        loss = (remover(inputs) - originals).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return remover.eval()


def _crop(
    marked: np.ndarray, clean: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random cube of both, mirrored at random; short axes are continued by their mirror image."""
    pads = [(0, 0), *((0, max(side - length, 0)) for length in marked.shape[1:])]
    both = [np.pad(one, pads, mode="symmetric") for one in (marked, clean)]
    corner = [int(rng.integers(length - side + 1)) for length in both[0].shape[1:]]
    box = (slice(None), *(slice(c, c + side) for c in corner))
    flips = tuple(axis for axis in range(1, marked.ndim) if rng.random() < 0.5)
    return tuple(np.flip(one[box], flips).astype(np.float32) for one in both)  # type: ignore[return-value]
