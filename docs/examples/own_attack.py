from dataclasses import dataclass

import torch

from robustvox.attacks import Attack, BestIterate, checks, input_gradient


@dataclass(frozen=True, kw_only=True)
class BiasField(Attack):
    """x' = x * (1 + eps * tanh(field)): a smooth gain, as MRI coils cause it, its waves chosen to hurt."""

    eps: float = 0.1  # largest relative gain; as x <= 1, also the L-inf radius
    order: int = 4  # cosine waves per axis, the constant one included
    steps: int = 20

    def __post_init__(self):
        checks.budget("eps", self.eps)
        checks.whole("order", self.order, 1)
        checks.whole("steps", self.steps, 0)

    @property
    def radius(self):
        return self.eps

    def perturb(self, task):
        x, best = task.images, BestIterate(task, self.steps)
        weights = x.new_zeros(x.shape[0], 1, *[self.order] * (x.ndim - 2))
        for step in range(self.steps + 1):
            field = weights.requires_grad_()
            for n in x.shape[2:]:  # takes one axis of weights away and appends one of the volume
                waves = (torch.pi / n * torch.arange(self.order)[:, None] * (torch.arange(n) + 0.5)).cos()
                field = (field.movedim(2, -1)[..., None] * waves.to(x)).sum(-2)
            images = (x * (1 + self.eps * field.tanh())).clamp(0, 1)
            loss = task.objective("dice")(logits := task.logits(images), step)
            best.offer(images, logits, loss)
            if step < self.steps:
                weights = weights.detach() + 2 / self.steps * input_gradient(loss, weights).sign()
        return best.images
