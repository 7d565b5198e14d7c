"""The thief's only handle on the victim: volumes in, answers out, so many and no more."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

OUTPUTS = ("labels", "probabilities")
Output = Literal["labels", "probabilities"]


class BudgetSpentError(RuntimeError):
    """The next query would exceed the budget; it was not answered."""


class QueryPort:
    """Answers queries as a deployed product does, with what its vendor may do against theft.

    Every volume counts, a repeated one too. The answer carries no gradient and shares no memory with the model,
    which runs in inference mode. Noise is a function of the volume that was asked, so that asking again averages
    nothing away; a volume that differs in one bit has other noise.

    Args:
        model: ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``, in eval mode.
        output: ``"labels"`` or ``"probabilities"``.
        budget: volumes answered in all, >= 0.
        decimals: probabilities are rounded to so many, None for all digits.
        noise: standard deviation of Gaussian noise added to the logits before anything else, >= 0.
        seed: of the noise.

    Raises:
        ValueError: for an argument out of range; when called, for volumes that are not finite or leave [0, 1].
        BudgetSpentError: when called beyond the budget, before the model sees anything.

    Example:
        >>> import torch
        >>> port = QueryPort(torch.nn.Conv3d(1, 3, 1).eval(), budget=2)
        >>> port(torch.rand(2, 1, 4, 4, 4)).shape, port.left
        (torch.Size([2, 1, 4, 4, 4]), 0)
        >>> port(torch.rand(1, 1, 4, 4, 4))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        robustvox.benchmark.studies.stealing.port.BudgetSpentError: expected at most 0 more volumes ...
    """

    __slots__ = ("__model", "_answered", "budget", "decimals", "noise", "output", "seed")

    def __init__(
        self,
        model: nn.Module,
        *,
        output: Output = "labels",
        budget: int,
        decimals: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        if output not in OUTPUTS:
            raise ValueError(f"output: expected one of {', '.join(OUTPUTS)}, got {output!r}")
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
            raise ValueError(f"budget: expected a whole number of volumes >= 0, got {budget!r}")
        if decimals is not None and (output == "labels" or decimals < 1):
            raise ValueError(
                f"decimals: expected None, or >= 1 with probabilities, got {decimals!r} with {output}"
            )
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise: expected a finite number >= 0, got {noise!r}")
        if model.training:
            raise ValueError("model: expected a victim in eval mode, got one in training; call model.eval()")
        self.__model = model
        self.output, self.budget, self.decimals, self.noise, self.seed = output, budget, decimals, noise, seed
        self._answered = 0

    @property
    def answered(self) -> int:
        """Volumes answered so far."""
        return self._answered

    @property
    def left(self) -> int:
        """Volumes that may still be asked."""
        return self.budget - self._answered

    def __call__(self, images: Tensor) -> Tensor:
        """Labels ``(B, 1, *spatial)`` int64 or probabilities ``(B, K, *spatial)`` float32 of ``images`` in [0, 1]."""
        if images.ndim < 4 or not len(images):
            raise ValueError(f"expected volumes (B, C, *spatial), got shape {tuple(images.shape)}")
        low, high = (float(bound) for bound in torch.aminmax(images.detach()))
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise ValueError(f"expected finite volumes in [0, 1], got range [{low:g}, {high:g}]; clip them")
        if len(images) > self.left:
            raise BudgetSpentError(
                f"expected at most {self.left} more volumes ({self._answered} of {self.budget} answered), "
                f"got {len(images)}; raise the budget or ask less"
            )
        # Counted first: a model that fails has still been asked.
        self._answered += len(images)
        with torch.inference_mode():
            answer = self._answer(images)
        # A clone outside inference mode is an ordinary tensor without a graph.
        return answer.clone()

    def _answer(self, images: Tensor) -> Tensor:
        logits = self.__model(images.detach()).float()
        if self.noise:
            logits = logits + self.noise * torch.stack([self._noise(x, logits.shape[1:]) for x in images])
        if self.output == "labels":
            return logits.argmax(1, keepdim=True)
        probabilities = logits.softmax(1)
        return probabilities if self.decimals is None else probabilities.round(decimals=self.decimals)

    def _noise(self, image: Tensor, shape: torch.Size) -> Tensor:
        asked = image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        digest = hashlib.sha256(f"port:{self.seed}:".encode() + asked).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(shape, generator=generator).to(image.device)
