"""Training of the zoo's small networks: one seeded recipe, minutes on a CPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F

from robustvox.datasets import Dataset, Volume
from robustvox.models import SOURCES, ModelCard, SlidingWindow, build_model, save_checkpoint
from robustvox.models.complexity import measure

from .loading import NamedAttack
from .provenance import version
from .specs import Spec
from .statistics import bootstrap_intervals


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run besides model and data.

    Args:
        steps: optimizer steps.
        batch_size: windows per step.
        lr: peak learning rate of AdamW, reached after ``warmup`` of the steps, then cosine to zero.
        weight_decay: of AdamW.
        warmup: share of steps in [0, 1).
        ema: decay of the averaged weights that are kept, in [0, 1).
        foreground: share of windows centered on a labelled voxel.
        rotate: largest rotation in degrees.
        scale: largest relative change of size.
        intensity: largest relative change of gain, and half of it as offset on [0, 1].
        noise: largest standard deviation of added noise on [0, 1].
    """

    steps: int = 1000
    batch_size: int = 2
    lr: float = 2e-3
    weight_decay: float = 1e-5
    warmup: float = 0.05
    ema: float = 0.99
    foreground: float = 0.5
    rotate: float = 12.0
    scale: float = 0.12
    intensity: float = 0.15
    noise: float = 0.02


@dataclass(frozen=True)
class Progress:
    """Reported after every step: the step (from 1), all steps, the loss, seconds so far."""

    step: int
    steps: int
    loss: float
    seconds: float


def train(
    model: Spec,
    dataset: Dataset,
    *,
    path: Path,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    attack: NamedAttack | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> ModelCard:
    """Train one network on the ``train`` split, write its checkpoint, return its card.

    The averaged weights of the last step are kept (no selection on the validation split, which only gives the
    Dice on the card). Same seed, same machine, same thread count: same weights.

    Args:
        model: architecture and overrides, ``unet:size=small``.
        dataset: gives volumes, classes and the window size.
        path: where the ``.safetensors`` file goes.
        recipe: optimization and augmentation.
        seed: of initialization, window sampling and augmentation.
        device: where to train.
        attack: replace every window by its adversarial version (adversarial training).
        on_step: called after every step.
    """
    recipe = recipe or Recipe()
    torch.manual_seed(seed)
    arguments = {"size": "small", **model.parameters}
    roi_size = dataset.roi_size
    network = build_model(
        model.name,
        in_channels=dataset.in_channels,
        num_classes=len(dataset.class_names),
        roi_size=roi_size,
        **arguments,
    ).to(device)
    network = network.to(memory_format=_channels_last(len(roi_size)))
    volumes = [dataset.load(case) for case in dataset.splits["train"]]
    averaged = _optimize(network, volumes, roi_size, recipe, seed, device, attack, on_step)
    window = SlidingWindow(averaged, roi_size, overlap=0.5, sw_batch_size=4)
    card = ModelCard(
        **validation(window, dataset, device),
        **cost(averaged, dataset),
        source=SOURCES[model.name],
        architecture=model.name,
        arguments=arguments,
        in_channels=dataset.in_channels,
        class_names=dataset.class_names,
        roi_size=tuple(roi_size),
        dataset=dataset.name,
        window=dataset.provenance["preprocessing"],
        recipe={
            **asdict(recipe),
            "optimizer": "AdamW",
            "loss": "DiceCE",
            "adversarial": attack.spec if attack else "none",
        },
        data=dict(dataset.provenance),
        seed=seed,
        code_version=version(),
    )
    save_checkpoint(path, averaged, card)
    return card


def validation(predictor: nn.Module, dataset: Dataset, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What a card says of the ``validation`` split: mean foreground Dice with interval, and the number of cases.

    Organs missing or invented count as zero.
    """
    scores = []
    for case in dataset.splits["validation"]:
        volume = dataset.load(case)
        with torch.inference_mode():
            logits = predictor(torch.from_numpy(volume.image)[None].to(device))
        scores.append(_mean_dice(logits.argmax(1)[0].cpu().numpy(), volume.label, len(dataset.class_names)))
    low, high = bootstrap_intervals(np.array([scores]))
    return {
        "validation_dice": float(np.mean(scores)),
        "validation_interval": (float(low[0]), float(high[0])),
        "validation_cases": len(scores),
    }


def cost(network: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """What a card says of the cost of a network on windows of the dataset."""
    complexity = measure(network, dataset.in_channels, dataset.roi_size)
    return {"parameters": complexity.parameters, "flops": complexity.flops}


def _mean_dice(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> float:
    counts = np.bincount((reference * num_classes + prediction).ravel(), minlength=num_classes**2)
    confusion = counts.reshape(num_classes, num_classes)
    sizes = confusion.sum(0) + confusion.sum(1)
    present = sizes[1:] > 0
    return float((2 * confusion.diagonal()[1:][present] / sizes[1:][present]).mean())


def _optimize(
    network: nn.Module,
    volumes: Sequence[Volume],
    roi_size: Sequence[int],
    recipe: Recipe,
    seed: int,
    device: str | torch.device,
    attack: NamedAttack | None,
    on_step: Callable[[Progress], None] | None,
) -> nn.Module:
    """Run the recipe; the exponential moving average of the weights, in eval mode."""
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, recipe))
    # Published loss of the benchmark; batch=False keeps samples apart.
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    network.train()
    for step, (images, labels) in enumerate(_windows(volumes, roi_size, recipe, seed), start=1):
        images, labels = images.to(device), labels.to(device)
        images = images.contiguous(memory_format=_channels_last(len(roi_size)))
        if attack is not None:
            images = attack.attack(network, images, labels, generator=generator)
        loss = criterion(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(recipe.ema, step / (step + 10))
        with torch.no_grad():
            for mean, value in zip(
                averaged.state_dict().values(), network.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)
        if on_step is not None:
            on_step(Progress(step, recipe.steps, float(loss.detach()), time.perf_counter() - start))
    return averaged


def _channels_last(rank: int) -> torch.memory_format:
    """Convolutions are a quarter faster in this layout, on CPU and GPU."""
    return {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank, torch.contiguous_format)


def _schedule(step: int, recipe: Recipe) -> float:
    warm = max(round(recipe.warmup * recipe.steps), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(recipe.steps - warm, 1)))


def _windows(
    volumes: Sequence[Volume], roi_size: Sequence[int], recipe: Recipe, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of augmented windows: images ``(B, C, *roi)`` float32, labels ``(B, 1, *roi)`` int64."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(recipe.steps):
        images, labels = [], []
        for _ in range(recipe.batch_size):
            if not order:
                order = list(rng.permutation(len(volumes)))
            image, label = _window(volumes[order.pop()], roi_size, recipe, rng)
            images.append(image)
            labels.append(label)
        yield torch.stack(images), torch.stack(labels)


def _window(
    volume: Volume, roi_size: Sequence[int], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One randomly rotated, scaled and recolored window, sampled around a voxel of the volume."""
    shape = np.array(volume.label.shape, dtype=float)
    roi = np.array(roi_size, dtype=float)
    if rng.random() < recipe.foreground:
        voxels = np.argwhere(volume.label > 0)
        center = voxels[rng.integers(len(voxels))].astype(float) if len(voxels) else shape / 2
    else:
        center = rng.random(len(shape)) * shape
    # A window inside the volume where it fits, the volume inside the window (moving a little) where not.
    slack = np.abs(shape - roi) / 2
    center = np.clip(center, shape / 2 - slack, shape / 2 + slack)
    matrix = _random_rotation(len(shape), recipe.rotate, rng) * (1 + rng.uniform(-recipe.scale, recipe.scale))
    theta = torch.from_numpy(_normalized_affine(matrix, center, shape, roi)).float()[None]
    grid = F.affine_grid(theta, [1, 1, *roi_size], align_corners=False)
    image = F.grid_sample(torch.from_numpy(volume.image)[None], grid, mode="bilinear", align_corners=False)[0]
    label = torch.from_numpy(volume.label.astype(np.float32))[None, None]
    label = F.grid_sample(label, grid, mode="nearest", align_corners=False)[0].long()
    gain = 1 + rng.uniform(-recipe.intensity, recipe.intensity)
    offset = rng.uniform(-recipe.intensity, recipe.intensity) / 2
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) * rng.uniform(
        0, recipe.noise
    )
    return (image * gain + offset + noise).clamp_(0, 1), label


def _random_rotation(rank: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    matrix = np.eye(rank)
    for a in range(rank):
        for b in range(a + 1, rank):
            angle = math.radians(rng.uniform(-degrees, degrees))
            plane = np.eye(rank)
            plane[a, a] = plane[b, b] = math.cos(angle)
            plane[a, b], plane[b, a] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ plane
    return matrix


def _normalized_affine(
    matrix: np.ndarray, center: np.ndarray, shape: np.ndarray, roi: np.ndarray
) -> np.ndarray:
    """Voxel-space rotation about ``center`` in the normalized, axis-reversed coordinates of ``affine_grid``."""
    linear = matrix * roi[None, :] / shape[:, None]
    translation = 2 * center / shape - 1
    return np.concatenate([linear[::-1, ::-1], translation[::-1, None]], axis=1)
