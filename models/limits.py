"""How much memory a described network or archive may ask for, found out before it gets any."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from .errors import CheckpointError

VARIABLE = "ROBUSTVOX_MEMORY_GIB"
DEFAULT_GIB = 4.0
MODULES = 20_000
"""Modules of a network; published ones have a few thousand."""


def memory_limit() -> int:
    """Bytes that one model file may ask for; 4 GiB, or what ``ROBUSTVOX_MEMORY_GIB`` says.

    Raises:
        CheckpointError: the variable holds no positive number.
    """
    text = os.environ.get(VARIABLE) or str(DEFAULT_GIB)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise CheckpointError(
            f"expected a positive number of GiB in {VARIABLE}, found {text!r}; correct or unset it"
        )
    return int(min(value, 2**20) * 2**30)


def require_memory(needed: float, what: str) -> None:
    """Refuse what needs more than the limit.

    Args:
        needed: bytes.
        what: needs them.

    Raises:
        CheckpointError: says how to allow it.
    """
    limit = memory_limit()
    if needed > limit:
        raise CheckpointError(
            f"expected at most {limit / 2**30:.1f} GiB for {what}, found a need of {needed / 2**30:.1f} GiB; set "
            f"{VARIABLE}={math.ceil(needed / 2**30)} to allow it"
        )


def require_window(roi_size: tuple[int, ...], channels: int, what: str) -> None:
    """Refuse a window whose image and logits alone need more than the limit.

    Args:
        roi_size: voxels per axis.
        channels: of image and logits together.
        what: names it.
    """
    require_memory(4.0 * channels * math.prod(map(float, roi_size)), f"the window {roi_size} of {what}")


def build_within(build: Callable[[], Any], what: str) -> Any:
    """The network that ``build`` makes, once it is known that its weights stay below the limit.

    It is built without values first (on PyTorch's `meta` device), and every weight and module is counted when it is
    registered, so that the description is refused before memory or minutes are spent on it. What cannot be built that
    way is built as it is, and counted all the same.

    Raises:
        CheckpointError: too large, or too many modules.
    """
    with _Counted(what):
        try:
            with _without_values():
                build()
        except (CheckpointError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - a builder that needs values; it is asked again below, and may fail there
            pass
    with _Counted(what):
        return build()


class _Counted:
    """Counts weights and modules of all networks that are built within."""

    def __init__(self, what: str) -> None:
        self.what, self.bytes, self.modules = what, 0.0, 0
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        from torch.nn.modules import module

        self._hooks = [
            module.register_module_parameter_registration_hook(self._weight),
            module.register_module_buffer_registration_hook(self._weight),
            module.register_module_module_registration_hook(self._module),
        ]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _weight(self, module: Any, name: str, tensor: Any) -> None:
        del module, name
        if tensor is not None:
            self.bytes += tensor.numel() * tensor.element_size()
            require_memory(self.bytes, f"the weights of {self.what}")

    def _module(self, module: Any, name: str, child: Any) -> None:
        del module, name, child
        self.modules += 1
        if self.modules > MODULES:
            raise CheckpointError(
                f"expected a network of at most {MODULES} modules in {self.what}, found more; correct its arguments"
            )


def _without_values() -> Any:
    """A context in which new tensors have a shape and no values, but for the ones that builders compute with."""
    import torch
    from torch.overrides import TorchFunctionMode

    factories = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}

    class WithoutValues(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = dict(kwargs or {})
            if func in factories and given.get("device") is None:
                given["device"] = "meta"
            return func(*args, **given)

    return WithoutValues()
