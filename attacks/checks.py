"""What an attack refuses, in one place: every message says expected, got and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def real(name: str, value: Any, low: float, high: float = math.inf, *, hint: str = "") -> None:
    """Refuse a hyper-parameter that is no finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"{name}: expected a number, got {value!r} of type {type(value).__name__}. {hint}".rstrip()
        )
    if not (math.isfinite(value) and low <= value <= high):
        limits = f">= {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name}: expected a finite number {limits}, got {value!r}. {hint}".rstrip())


def budget(name: str, value: Any) -> None:
    """Refuse an intensity radius outside [0, 1]."""
    real(name, value, 0.0, 1.0, hint="Images live in [0, 1]: write 8/255, not 8")


def whole(name: str, value: Any, low: int) -> None:
    """Refuse a hyper-parameter that is no integer >= low."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(
            f"{name}: expected an integer >= {low}, got {value!r}. Pass a whole number such as {max(low, 20)}"
        )


def flag(name: str, value: Any) -> None:
    """Refuse anything that is not True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {value!r}. Pass a bool")


def choice(name: str, value: Any, options: Iterable[str]) -> None:
    """Refuse a name that is not one of the options."""
    known = list(options)
    if value not in known:
        raise ValueError(
            f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}. Pick one of these names"
        )


def plain(name: str, value: Any) -> Tensor:
    """A plain detached tensor, without MONAI's MetaTensor or any other subclass around it."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(value).__name__}. Convert it with torch.as_tensor"
        )
    return value.detach() if type(value) is Tensor else value.detach().as_subclass(Tensor)


def images(value: Any) -> Tensor:
    """Images (B, C, *spatial), float32 or float64, finite, in [0, 1]."""
    value = plain("images", value)
    if value.ndim < 4:
        raise ValueError(
            f"images: expected shape (B, C, *spatial) with at least two spatial axes, "
            f"got {tuple(value.shape)}. Add the batch and channel axes, e.g. images[None, None]"
        )
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images: expected float32 or float64, got {value.dtype}. Half precision cannot "
            "carry a budget such as 8/255: pass images.float() and let the model cast inside"
        )
    if value.numel() == 0:
        raise ValueError(
            f"images: expected at least one voxel, got shape {tuple(value.shape)}. Pass a non-empty batch"
        )
    low, high = _finite_range(value, "images: expected finite values", "Repair NaN and inf first")
    if low < 0 or high > 1:
        raise ValueError(
            f"images: expected values in [0, 1], got range [{low:g}, {high:g}]. "
            "Map the intensity window to [0, 1] and move any other normalization into the model"
        )
    return value


def labels(value: Any, like: Tensor, name: str = "labels") -> Tensor:
    """Labels (B, 1, *spatial), int64, not negative, on the device of the images."""
    value = _companion(name, value, like)
    if value.dtype != torch.int64:
        raise ValueError(f"{name}: expected int64, got {value.dtype}. Pass {name}.long()")
    lowest = int(value.min())
    if lowest < 0:
        raise ValueError(
            f"{name}: expected class indices >= 0, got {lowest}. Exclude voxels with mask=, not with a label"
        )
    return value


def targets(value: Any, like: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
    """Targets as labels, in every sample different from the reference where voxels count.

    Descending on the reference would improve the segmentation and be reported as an attack.
    """
    value = labels(value, like, "targets")
    differs = value != reference if mask is None else (value != reference) & mask
    if not bool(differs.flatten(1).any(1).all()):
        raise ValueError(
            "targets: expected a segmentation other than the labels, got the labels for at least one sample. "
            "Pass the segmentation to provoke, e.g. the labels with one organ removed"
        )
    return value


def mask(value: Any, like: Tensor) -> Tensor | None:
    """Mask (B, 1, *spatial), bool, with at least one counted voxel per sample, or None."""
    if value is None:
        return None
    value = _companion("mask", value, like)
    if value.dtype != torch.bool:
        raise ValueError(f"mask: expected bool (True = counts), got {value.dtype}. Pass mask.bool()")
    if not bool(value.flatten(1).any(1).all()):
        raise ValueError(
            "mask: expected at least one True voxel per sample, got a sample without. Drop that sample"
        )
    return value


def boxes(value: Any, like: Tensor) -> Tensor | None:
    """Where the samples lie, (B, 1, *spatial) bool, from one tuple of slices per sample; None for everywhere."""
    if value is None:
        return None
    spatial = tuple(like.shape[2:])
    fitting = len(value) == like.shape[0] and all(
        len(box) == len(spatial)
        and all(
            isinstance(part, slice)
            and part.step is None
            and 0 <= (part.start or 0) < (part.stop or 0) <= side
            for part, side in zip(box, spatial, strict=True)
        )
        for box in value
    )
    if not fitting:
        raise ValueError(
            f"boxes: expected {like.shape[0]} tuples of {len(spatial)} slices, not empty and inside {spatial}, got "
            f"{value!r}. Give every sample slice(start, stop) per spatial axis"
        )
    inside = torch.zeros((like.shape[0], 1, *spatial), dtype=torch.bool)
    for sample, box in zip(inside, value, strict=True):
        sample[(slice(None), *box)] = True
    return inside.to(like.device)


def _companion(name: str, value: Any, like: Tensor) -> Tensor:
    value = plain(name, value)
    expected = (like.shape[0], 1, *like.shape[2:])
    if tuple(value.shape) != expected:
        raise ValueError(
            f"{name}: expected shape (B, 1, *spatial) = {expected}, got {tuple(value.shape)}. "
            "Class indices keep a channel axis of one"
        )
    if value.device != like.device:
        raise ValueError(
            f"{name}: expected device {like.device} like images, got {value.device}. Move it with .to()"
        )
    return value


def logits(value: Any, like: Tensor, top_label: int, min_classes: int) -> None:
    """The first model output: one finite tensor of logits (B, K, *spatial) that knows every label."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"model output: expected a torch.Tensor of logits, got {type(value).__name__}. "
            "Wrap the model so that it returns only its full-resolution logits (drop deep-supervision heads)"
        )
    if value.device != like.device or not value.is_floating_point():
        raise ValueError(
            f"model output: expected floating-point logits on {like.device}, got {value.dtype} on "
            f"{value.device}. Return the network's output itself, no class indices and no copy elsewhere"
        )
    batch, *spatial = like.shape[0], *like.shape[2:]
    if value.ndim != like.ndim or value.shape[0] != batch or list(value.shape[2:]) != spatial:
        raise ValueError(
            f"model output: expected shape (B, K, *spatial) = ({batch}, K, {', '.join(map(str, spatial))}), "
            f"got {tuple(value.shape)}. Return logits at the resolution of the images"
        )
    classes = value.shape[1]
    if classes < max(2, min_classes):
        raise ValueError(
            f"model output: expected K >= {max(2, min_classes)} classes, got {classes}. "
            "Turn one sigmoid channel z into two with torch.cat([-z, z], 1) / 2"
        )
    if top_label >= classes:
        raise ValueError(
            f"labels: expected classes below K = {classes}, got {top_label}. Remap the labels (or targets)"
        )
    low, high = _finite_range(value, "model output: expected finite logits", "Check weights and precision")
    # Probabilities in half precision sum to one only as closely as they are rounded.
    total, slack = value.float().sum(1), max(1e-4, torch.finfo(value.dtype).eps)
    if low >= 0 and high <= 1 and torch.allclose(total, total.new_ones(()), atol=slack):
        raise ValueError(
            "model output: expected logits, got probabilities (in [0, 1], summing to 1 over dim 1). "
            "Pass logits: remove the softmax"
        )


def connected(output: Tensor, images: Tensor) -> None:
    """Refuse an output on which the images have no influence that autograd knows of.

    Without it an attack whose objective has a term of its own, such as a similarity, would climb that term.
    """
    wanted, seen, open_ends = images.grad_fn, set(), [output.grad_fn]
    while open_ends:
        node = open_ends.pop()
        if node is None or node in seen:
            continue
        # The images are the result of a node, or a leaf that a node accumulates into.
        if node is wanted or (wanted is None and getattr(node, "variable", None) is images):
            return
        seen.add(node)
        open_ends += [before for before, _ in node.next_functions]
    raise ValueError(
        "model output: expected logits connected to the images by autograd, got a constant. "
        "Remove no_grad, inference_mode, detach or numpy from the model's forward"
    )


def _finite_range(value: Tensor, expected: str, remedy: str) -> tuple[float, float]:
    """Lowest and highest value."""
    low, high = (bound.item() for bound in torch.aminmax(value))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{expected}, got range [{low}, {high}]. {remedy}")
    return low, high
