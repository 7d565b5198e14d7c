"""Losses that attacks climb: pure functions (logits, labels, mask) -> (B,), chosen by name.

Logits (B, K, *spatial), labels (B, 1, *spatial) int64, mask (B, 1, *spatial) bool or None. Every sample's
value depends on that sample alone, so the gradient of the sum treats a batch as its items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .counting import agreement, class_dot, class_sizes, class_sums, predicted

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy_map(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of every voxel, -log softmax(logits)[label].

    Args:
        logits: (B, K, *spatial).
        labels: (B, 1, *spatial).

    Returns:
        (B, *spatial), >= 0.
    """
    return F.cross_entropy(logits, labels[:, 0], reduction="none")


def voxel_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the voxels that count.

    Args:
        values: (B, *spatial).
        mask: (B, 1, *spatial) bool, or None for all.

    Returns:
        (B,).
    """
    if mask is None:
        return values.flatten(1).mean(1)
    return _total(values, mask) / mask.flatten(1).sum(1)


def ce(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean voxel cross entropy, (B,)."""
    return voxel_mean(cross_entropy_map(logits, labels), mask)


def mask_ce(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross entropy of the voxels that are still right, over all that count, (B,).

    The set of right voxels (argmax = label) is a constant for the gradient; without any, the loss is 0. SEA,
    Croce et al., ECCV 2024, arXiv 2306.12941.
    """
    return voxel_mean(_right(logits, labels) * cross_entropy_map(logits, labels), mask)


def mask_ce_balanced(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """`mask_ce` in which every class of the reference weighs the same, however small it is, (B,).

    Voxel j of class y weighs 1 / (n_y R): n_y counted voxels of its class, R classes in the reference. From
    the final SEA paper, arXiv 2306.12941, whose constant factor differs.
    """
    weight = _class_weight(logits, labels, mask) * _right(logits, labels)
    return _total(weight * cross_entropy_map(logits, labels), mask)


def missing_ce(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross entropy of the voxels that are not at their label yet, over all that count, (B,).

    What `mask_ce` becomes when the labels are targets: the voxels where work is left.
    """
    return voxel_mean((1 - _right(logits, labels)) * cross_entropy_map(logits, labels), mask)


def missing_ce_balanced(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """`missing_ce` with the class weights of `mask_ce_balanced`, (B,)."""
    weight = _class_weight(logits, labels, mask) * (1 - _right(logits, labels))
    return _total(weight * cross_entropy_map(logits, labels), mask)


def js(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean voxel Jensen-Shannon divergence of the prediction and the one-hot label, (B,), in [0, log 2].

    Closed form in p = p_label alone, log 2 + (p log p - (1 + p) log(1 + p)) / 2: finite for any logits, where
    the definition multiplies 0 by log 0. Its gradient fades for voxels that are surely wrong: as a loss against
    targets it hardly sees those that are far away.
    """
    log_p = -cross_entropy_map(logits, labels)
    p = log_p.exp()
    return voxel_mean(math.log(2) + (p * log_p - (1 + p) * torch.log1p(p)) / 2, mask)


def margin(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over voxels of the best other logit minus the logit of the label, (B,)."""
    return voxel_mean(_margin_map(logits, labels), mask)


def dlr(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Difference of logits ratio, mean over voxels, (B,), >= -1.

    (max_{k != y} z_k - z_y) / (z_(1) - z_(3)) with z_(i) the i-th largest logit: no scaling or shift of the
    logits changes it. At most 1 with three classes; with more, a label far behind the third goes beyond. Croce and Hein, ICML 2020, arXiv 2003.01690.

    Raises:
        ValueError: with fewer than three classes, where z_(3) does not exist.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"loss 'dlr': expected K >= 3 classes, got {logits.shape[1]}. Use loss='margin' for two classes"
        )
    top = logits.topk(3, dim=1).values
    return voxel_mean(_margin_map(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12), mask)


def dice(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus the mean soft Dice of the foreground, (B,), in [0, 1].

    Soft Dice of class c is 2 I_c / (P_c + G_c) with I_c the probability mass on the reference, P_c its
    total and G_c the size of the reference. As in the reported metric, the mean runs over the foreground
    classes found in the reference or in the hard prediction. A class absent from the reference has soft
    Dice 0 whatever the logits: this loss never rewards hallucinating one, `dice_ce` does.
    """
    return _SoftDice.apply(logits, labels, mask)  # type: ignore[return-value]


class _SoftDice(torch.autograd.Function):
    """`dice` with its gradient written out: one volume of size K is kept, one is made."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        classes = logits.shape[1]
        probabilities = torch.softmax(logits, 1)
        known = agreement(logits, labels, mask)
        correct = probabilities.gather(1, labels)
        overlap = _overlap(correct, labels, mask, classes)
        total = _counted(probabilities, mask).flatten(2).sum(2) + known.sizes
        # Counted classes have a total > 0; the floor only keeps skipped ones finite.
        total = total.clamp_min(torch.finfo(total.dtype).tiny)
        share = known.present / known.count.clamp_min(1).to(total.dtype).unsqueeze(1)
        ctx.save_for_backward(probabilities, correct, labels, mask, overlap, total, share)
        return torch.where(known.count > 0, 1 - (share * (2 * overlap / total)).sum(1), 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        p, correct, labels, mask, overlap, total, share = ctx.saved_tensors
        flat, index = p.flatten(2), labels.flatten(2)
        scale = 2 * share / total * outer.unsqueeze(1)
        # With h_c the derivative by p_c, softmax turns h into p_c (h_c - sum_k p_k h_k). Here h_c is
        # curve_c, less scale_y in the labeled channel y.
        curve = scale * overlap / total
        bonus = correct.flatten(2) * (-scale).gather(1, index[:, 0]).unsqueeze(1)
        gradient = flat * curve.unsqueeze(2)
        center = gradient.sum(1, keepdim=True).add_(bonus)
        gradient.addcmul_(flat, center, value=-1).scatter_add_(1, index, bonus)
        return _counted(gradient.view_as(p), mask), None, None


def dice_ce(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Soft Dice loss plus cross entropy as the published attacks use it, (B,).

    Per sample the value of MONAI's DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True,
    smooth_nr=0, smooth_dr=1e-6): background included, 1 - mean_c 2 I_c / (sum p_c^2 + G_c + 1e-6) + mean
    voxel CE. The Dice term of a class absent from the reference is 1 with zero gradient.
    """
    return _DiceCE.apply(logits, labels, mask)  # type: ignore[return-value]


class _DiceCE(torch.autograd.Function):
    """`dice_ce` with its gradient written out.

    Left to autograd, the same loss costs a fifth of a UNet's forward and backward, most of it in volumes of
    size K that are written once and read once. Here two such volumes are touched, in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        probabilities = torch.log_softmax(logits, 1)
        entropy = probabilities.gather(1, labels).neg_()[:, 0]
        probabilities.exp_()
        correct = probabilities.gather(1, labels)
        overlap = _overlap(correct, labels, mask, logits.shape[1])
        squares = torch.linalg.vector_norm(_counted(probabilities, mask).flatten(2), dim=2).square()
        total = squares + class_sizes(labels, mask, logits.shape[1]) + 1e-6
        ctx.save_for_backward(probabilities, correct, labels, mask, overlap, total)
        return 1 - (2 * overlap / total).mean(1) + voxel_mean(entropy, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        p, correct, labels, mask, overlap, total = ctx.saved_tensors
        batch, classes = p.shape[:2]
        flat, index = p.flatten(2), labels.flatten(2)
        counted = flat.shape[2] if mask is None else mask.flatten(2).sum(2, keepdim=True).to(p.dtype)
        # With h_c the derivative by p_c, softmax turns h into p_c (h_c - sum_k p_k h_k). Here h_c is
        # curve_c p_c, plus gain_y in the labeled channel y; cross entropy adds (p_c - onehot_c) / counted.
        # What the outer derivative scales is small here and of size K further down.
        curve = (4 * overlap / total.square() / classes * outer.unsqueeze(1)).view(batch, classes, 1)
        gain = -2 / total / classes * outer.unsqueeze(1)
        gradient = flat * curve
        bonus = correct.flatten(2) * gain.gather(1, index[:, 0])[:, None]
        onehot = bonus - outer.view(-1, 1, 1) / counted
        center = class_dot(gradient, flat, onehot.clone())
        gradient.sub_(center).mul_(flat).scatter_add_(1, index, onehot)
        return _counted(gradient.view_as(p), mask), None, None


@torch.no_grad()
def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the prediction equals the label, else 0, (B, *spatial), without a graph."""
    return (predicted(logits) == labels[:, 0]).to(logits.dtype)


def _class_weight(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """1 / (voxels of the label's class * classes in the reference), (B, *spatial)."""
    sizes = class_sizes(labels, mask, logits.shape[1])
    share = 1 / (sizes.clamp_min(1) * (sizes > 0).sum(1, keepdim=True).clamp_min(1)).to(logits.dtype)
    return share.gather(1, labels.flatten(1)).view_as(labels)[:, 0]


def _margin_map(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{k != label} z_k - z_label of every voxel, (B, *spatial)."""
    own = logits.gather(1, labels)[:, 0]
    others = logits.scatter(1, labels, -torch.inf)
    return others.max(1).values - own


def _total(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sum of (B, *spatial) over the voxels that count, (B,)."""
    return _counted(values, None if mask is None else mask[:, 0]).flatten(1).sum(1)


def _counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values, zero where they do not count; where(), so that an excluded inf has no effect."""
    return values if mask is None else torch.where(mask, values, 0.0)


def _overlap(correct: Tensor, labels: Tensor, mask: Tensor | None, classes: int) -> Tensor:
    """Probability mass that each class has on its own reference voxels, (B, K), from that of the labels."""
    return class_sums(_counted(correct, mask).flatten(1), labels.flatten(1), classes)


#: name -> loss; what the `loss` field of an attack may say.
LOSSES: dict[str, Loss] = {
    "ce": ce,
    "mask_ce": mask_ce,
    "mask_ce_balanced": mask_ce_balanced,
    "js": js,
    "margin": margin,
    "dlr": dlr,
    "dice": dice,
    "dice_ce": dice_ce,
}

#: the losses that differ when the labels are targets and the loss shall fall
TARGETED: dict[str, Loss] = {"mask_ce": missing_ce, "mask_ce_balanced": missing_ce_balanced}

#: least number of classes of the losses that need more than two
MIN_CLASSES: dict[str, int] = {"dlr": 3}
