"""Training of the zoo's small networks: one seeded recipe, minutes on a CPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from robustvox.datasets import Dataset, Volume
from robustvox.models import CATALOG, ModelCard, SlidingWindow, build_model, save_checkpoint

from ..craft.named import NamedAttack
from ..records.provenance import version
from ..specs.spec import Spec
from .card import cost, validation
from .recipe import Progress, Recipe, learning_rate
from .windows import UNLABELLED, sample_windows


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
    roi_size: Sequence[int] | None = None,
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
        roi_size: window in voxels; default the dataset's.
    """
    recipe = recipe or Recipe()
    torch.manual_seed(seed)
    arguments = {"size": "small", **model.parameters}
    roi_size = tuple(roi_size or dataset.roi_size)
    if not roi_size:
        raise ValueError(f"expected a roi_size for {dataset.name}, which has none of its own; give one")
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
        **cost(averaged, dataset, roi_size),
        source=CATALOG[model.name].source,
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
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, recipe))
    # Published loss of the benchmark; batch=False keeps samples apart.
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    network.train()
    for step, (images, labels) in enumerate(sample_windows(volumes, roi_size, recipe, seed), start=1):
        images, labels = images.to(device), labels.to(device)
        images = images.contiguous(memory_format=_channels_last(len(roi_size)))
        counted = labels != UNLABELLED
        if attack is not None:
            mask = None if counted.all() else counted
            images = attack.attack(network, images, labels.clamp_min(0), mask, generator=generator)
        loss = masked_loss(criterion, network(images), labels, counted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _move_average(averaged, network, decay=min(recipe.ema, step / (step + 10)))
        if on_step is not None:
            on_step(Progress(step, recipe.steps, float(loss.detach()), time.perf_counter() - start))
    return averaged


@torch.no_grad()
def _move_average(averaged: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move every weight of the average towards the network's; counters are taken over as they are."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def masked_loss(criterion: nn.Module, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """A loss over voxels over those that count, averaged over the samples that have any.

    Shape:
        logits: ``(B, K, *spatial)``; labels and counted: ``(B, 1, *spatial)``.
    """
    if bool(counted.all()):
        return criterion(logits, labels)
    # The loss sums over voxels, whatever their order, so a row of the counted ones is a volume of its own.
    losses = [
        criterion(sample[:, there[0]][None], label[there][None, None])
        for sample, label, there in zip(logits, labels, counted, strict=True)
        if bool(there.any())
    ]
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


def _channels_last(rank: int) -> torch.memory_format:
    """Convolutions are a quarter faster in this layout, on CPU and GPU."""
    return {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank, torch.contiguous_format)
