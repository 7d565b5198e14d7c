"""Our attacks as torchattacks' own; `attacks.interop` has the way in."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .base import Attack, Model, frozen


def as_torchattacks(attack: Attack, model: Model) -> Any:
    """One of our attacks as a `torchattacks.attack.Attack`, called as `(images, labels)`.

    Their idioms work: changing a hyper-parameter (`atk.eps = 4 / 255`), `set_normalization_used` for volumes of
    any rank, `set_mode_targeted_by_function` and `set_mode_targeted_by_label`, `save` and `load`, `str`, and
    seeding by `torch.manual_seed` (every call draws one number from the global state). What counts one label
    per image is refused: robust accuracy in `save`, random and least likely targets, `MultiAttack` and `LGV`.
    So are quantized files, which leave the ball.

    Args:
        attack: any attack of this package.
        model: maps images to logits (B, K, *spatial); an `nn.Module` or any callable.

    Shape:
        images (B, C, *spatial), labels (B, *spatial) or (B, 1, *spatial), result like images.

    Returns:
        The attack of theirs. Like theirs it moves its inputs to the device of the model; a `mask` may follow
        the labels. In the mode `targeted(label)` the labels are the targets, to be different from the
        prediction on the clean images, which takes one forward more.

    Raises:
        ImportError: without torchattacks.
        TypeError: if `attack` is no attack or `model` is not callable.

    Example:
        >>> import torch
        >>> from robustvox.attacks import PGD
        >>> from robustvox.attacks.interop import as_torchattacks
        >>> model = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 8, 9, 10, dtype=torch.int64)
        >>> atk = as_torchattacks(PGD(eps=8 / 255, steps=5), model)
        >>> bool((atk(images, labels) - images).abs().max() <= atk.eps)
        True
    """
    if not isinstance(attack, Attack):
        raise TypeError(f"attack: expected an Attack, got {type(attack).__name__}. Pass e.g. PGD(eps=8/255)")
    if not callable(model):
        raise TypeError(f"model: expected a callable, got {type(model).__name__}. Pass the network")
    return _bridge()(attack, model if isinstance(model, nn.Module) else _Callable(model))


_Foreign: Any = object


class _Bridge(_Foreign):
    """What `as_torchattacks` changes in their base class, which is mixed in when torchattacks is there."""

    def __init__(self, attack: Attack, model: nn.Module) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # prints when a model has no parameters
            super().__init__(type(attack).__name__, model)
        self._attacks = _Solo()
        self._source = attack
        self.supported_mode = ["default", "targeted"] if attack.takes_targets else ["default"]
        for name in self._names():
            setattr(self, name, getattr(attack, name))

    def _names(self) -> list[str]:
        return [field.name for field in fields(self._source) if field.init]

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("labels: expected a tensor, got None. Pass the segmentation to move away from")
        device = inputs.device if self.device is None else self.device
        images, known = inputs.to(device), labels.to(device)
        model = _Scaled(self.model, self.normalize) if self._normalization_applied is False else self.model
        targets = None
        if self.targeted:
            targets = _with_channel(self.get_target_label(images, known), images)
            if self.attack_mode == "targeted(label)":
                with frozen(model), torch.no_grad():
                    known = model(images).argmax(1)
        changed = {k: v for k in self._names() if (v := getattr(self, k)) != getattr(self._source, k)}
        attack = replace(self._source, **changed) if changed else self._source
        generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
        counted = None if mask is None else _with_channel(mask.to(device), images)
        return attack(model, images, _with_channel(known, images), counted, generator, targets=targets)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        applied = self._normalization_applied
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._normalization_applied = applied  # theirs is left turned off by an exception

    def normalize(self, inputs: Tensor) -> Tensor:
        mean, std = self._statistics(inputs)
        return (inputs - mean) / std

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        mean, std = self._statistics(inputs)
        images = inputs * std + mean
        inside = images.clamp(0, 1)
        # Only rounding is repaired: anything more is for the check of the images to refuse.
        return inside if bool((images - inside).abs().max() < 1e-5) else images

    def _statistics(self, like: Tensor) -> list[Tensor]:
        """Mean and standard deviation, broadcastable to any rank, where theirs are (1, C, 1, 1)."""
        shape = (1, -1, *[1] * (like.ndim - 2))
        return [self.normalization_used[key].to(like).view(shape) for key in ("mean", "std")]

    def save(
        self,
        data_loader: Any,
        save_path: Any = None,
        verbose: bool = False,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: str = "float",
    ) -> None:
        if verbose or return_verbose or save_predictions:
            raise ValueError(
                "verbose, return_verbose, save_predictions: expected False, got True. They count one label per "
                "image: score the saved volumes with robustvox.benchmark.metrics.scores"
            )
        checks.choice("save_type", save_type, ("float",))
        with frozen(self.model):  # theirs would put a model with frozen layers into training mode throughout
            super().save(data_loader, save_path, False, save_clean_inputs=save_clean_inputs)

    def set_mode_targeted_random(self, quiet: bool = False) -> None:  # noqa: ARG002
        self._refuse_mode("random")

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:  # noqa: ARG002
        self._refuse_mode("least likely")

    def _refuse_mode(self, mode: str) -> None:
        raise ValueError(
            f"mode: expected targets by label or by function, got {mode}. Theirs picks one label per image: "
            "pass a function of images and labels to set_mode_targeted_by_function"
        )

    def set_model_training_mode(self, *flags: bool, **named: bool) -> None:
        if any(flags) or any(named.values()):
            raise ValueError("training mode: expected False, got True. Our attacks run in eval mode only")

    def _change_model_mode(self, given_training: bool) -> None:
        """Nothing: our attacks put the mode of every layer back themselves."""

    def _recover_model_mode(self, given_training: bool) -> None:
        """Nothing, see `_change_model_mode`."""


@functools.cache
def _bridge() -> type:
    return type("RobustvoxAttack", (_Bridge, package().attack.Attack), {})


class _Solo(OrderedDict[str, Any]):
    """Refuses registration in an attack of theirs made of several.

    MultiAttack counts labels as images: on volumes it indexes one copy of the volume per wrong voxel.
    """

    def items(self) -> Any:
        raise ValueError(
            "as_torchattacks: expected to be called directly, got put into another attack (MultiAttack, LGV). "
            "They count one label per image: use ensemble"
        )

    def __reduce__(self) -> Any:
        return _Solo, ()


class _Callable(nn.Module):
    """A plain callable in the clothes of a module."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)


class _Scaled(_Callable):
    """A model behind its normalization."""

    def __init__(self, model: Model, normalize: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self.normalize = normalize

    def forward(self, images: Tensor) -> Any:
        return self.model(self.normalize(images))


def package() -> Any:
    """The torchattacks package; it is imported on first use."""
    try:
        return importlib.import_module("torchattacks")
    except ImportError as error:
        raise ImportError(
            f"torchattacks: expected it to be installed, got {error}. Run pip install 'robustvox[torchattacks]'"
        ) from error


def _with_channel(values: Tensor, images: Tensor) -> Tensor:
    return values[:, None] if values.ndim == images.ndim - 1 else values
