"""What a copy minimizes when it trains on the victim's answers."""

from __future__ import annotations

from monai.losses.dice import DiceCELoss, DiceLoss
from torch import Tensor, nn


class AnswerLoss(nn.Module):
    """Loss of ``(B, K, *spatial)`` logits against the victim's answers.

    Labels: DiceCE as in training on true labels. Probabilities: soft Dice of the foreground plus cross entropy in
    which every class weighs the same in all, however small it is; plain voxel KL drowns a foreground of 2%.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hard = DiceCELoss(
            to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6
        )
        self._overlap = DiceLoss(
            softmax=True, soft_label=True, include_background=False, smooth_nr=1e-6, smooth_dr=1e-6
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not target.is_floating_point():
            return self._hard(logits, target)
        axes = [0, *range(2, target.ndim)]
        mass = target.sum(axes)
        # A class that the victim hardly names would otherwise weigh without limit.
        weight = 1 / mass.clamp_min(1e-3 * float(mass.sum()))
        entropy = -(target * logits.log_softmax(1)).sum(axes)
        return self._overlap(logits, target) + (weight * entropy).sum() / len(weight)
