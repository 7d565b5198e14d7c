from dataclasses import dataclass

from robustvox.attacks import Attack, BestIterate, checks, input_gradient


@dataclass(frozen=True, kw_only=True)
class Decay(Attack):
    """PGD whose steps shrink: alpha_t = eps * decay^t, from the clean volume."""

    eps: float = 8 / 255
    decay: float = 0.7
    steps: int = 10

    def __post_init__(self):
        checks.budget("eps", self.eps)
        checks.whole("steps", self.steps, 1)

    @property
    def radius(self):
        return self.eps  # the harness audits it on every volume

    def perturb(self, task):
        x, best = task.images, BestIterate(task, self.steps)
        objective, current = task.objective("dice"), task.images
        for step in range(self.steps + 1):
            current = current.detach().requires_grad_()
            loss = objective(logits := task.logits(current), step)
            best.offer(current.detach(), logits, loss)
            if step < self.steps:
                move = self.eps * self.decay**step * input_gradient(loss, current).sign()
                current = (current + move).clamp(x - self.eps, x + self.eps).clamp(0, 1)
        return best.images
