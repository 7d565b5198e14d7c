"""Networks that look robust to an attack by gradients and are not: what a submitter might put around a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Around(nn.Module):
    """Something around a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Scaled(Around):
    """Logits so large that the softmax is flat in float32."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__(network)
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) * self.factor


class Quantized(Around):
    """The input in 32 grey levels, whose gradient is zero."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 31).round() / 31)


class Stopped(Around):
    """Most of the input takes a way through which no gradient comes back."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.detach() * 0.99 + images * 0.01)


class Restless(Around):
    """Noise on the input at every call."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + 0.02 * torch.randn_like(images))


class Wary(Around):
    """Answers with a smoothed network while gradients are taken."""

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad or torch.is_grad_enabled():
            return self.network(nn.functional.avg_pool3d(images, 5, 1, 2))
        return self.network(images)


class Watching(Around):
    """Knows the volume it is scored on by heart, and answers anything else at random."""

    def __init__(self, network: nn.Module, known: Tensor) -> None:
        super().__init__(network)
        self.known = known

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        same = images.shape == self.known.shape and bool((images - self.known).abs().max() < 1e-4)
        return logits if same else logits.flip(1)


class HalfStopped(Around):
    """The gradient of a network that nobody scores: the answer is the network's, its derivative another one's."""

    def __init__(self, network: nn.Module, decoy: nn.Module) -> None:
        super().__init__(network)
        self.decoy = decoy

    def forward(self, images: Tensor) -> Tensor:
        wrong = self.decoy(images)
        return self.network(images).detach() + wrong - wrong.detach()
