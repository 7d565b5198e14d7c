"""torchattacks both ways: their attacks in our harness, our attacks as theirs.

    TorchAttack(name="MIFGSM", parameters={"eps": 8 / 255})(model, images, labels)
    as_torchattacks(PGD(eps=8 / 255), model)(images, labels)

Importing this module does not import torchattacks; using it does.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .base import Attack
from .interop_export import as_torchattacks as as_torchattacks
from .interop_export import package
from .task import Task

#: Their attacks that are right on folded volumes, by the norm of their ball ("" for none). Read and tried, 3.5.1.
SUPPORTED: dict[str, str] = {
    **dict.fromkeys(("FGSM", "BIM", "RFGSM", "PGD", "EOTPGD", "FFGSM", "TPGD", "UPGD"), "linf"),
    **dict.fromkeys(("MIFGSM", "NIFGSM", "SINIFGSM", "VMIFGSM", "VNIFGSM"), "linf"),
    **{"PGDL2": "l2", "GN": "", "VANILA": ""},
}

_LABEL = "it needs one label per image"
_KERNEL = "it filters the gradient with 2D kernels for three color channels"
_RESIZE = "it resizes and shifts 2D images by interpolation, and the labels of the voxels would not follow"

#: Their attacks that are not, and why.
REFUSED: dict[str, str] = {
    "APGD": f"{_LABEL}, and stops at the first wrong one; use apgd",
    "APGDT": f"{_LABEL}, and stops at the first wrong one; use apgd with targets",
    "AutoAttack": f"{_LABEL}, as its members APGD, FAB and Square do; use ensemble",
    "CW": f"{_LABEL} to judge the smallest change that succeeds",
    "DIFGSM": f"{_RESIZE}; use MIFGSM",
    "DeepFool": f"{_LABEL} to walk to the nearest decision boundary",
    "EADEN": f"{_LABEL} to judge the smallest change that succeeds",
    "EADL1": f"{_LABEL} to judge the smallest change that succeeds",
    "FAB": f"{_LABEL} to project on the nearest decision boundary",
    "JSMA": f"{_LABEL}, and a Jacobian over all pairs of voxels",
    "Jitter": "it compares one-hot labels with the last axis of the logits, which must be (B, K)",
    "LGV": "it is a wrapper that trains networks, not an attack",
    "MultiAttack": "it is a wrapper for several attacks, not an attack; use ensemble",
    "OnePixel": f"{_LABEL}, and writes single pixels of 2D images",
    "PGDRS": "it averages probabilities over the last axis of the logits, which must be (B, K)",
    "PGDRSL2": "it averages probabilities over the last axis of the logits, which must be (B, K)",
    "PIFGSM": f"{_KERNEL}; use MIFGSM",
    "PIFGSMPP": f"{_KERNEL}; use MIFGSM",
    "Pixle": f"{_LABEL}, and swaps pixels of 2D images",
    "SPSA": "it ranks classes along the last axis of the logits, which must be (B, K)",
    "SparseFool": f"{_LABEL} to walk to the nearest decision boundary",
    "Square": f"{_LABEL}, and writes squares into 2D images; use square",
    "TIFGSM": f"{_RESIZE}, and {_KERNEL.removeprefix('it ')}; use MIFGSM",
}


@dataclass(frozen=True, kw_only=True)
class TorchAttack(Attack):
    """An attack of the torchattacks package on volumes.

    Runs their code unchanged, one sample at a time, on the volume folded to (1, C, H, W * D): a reshape that the
    model undoes. So a norm over their hard-coded axes (1, 2, 3) is the norm over the whole volume. Their
    cross entropy then is the mean over voxels. Costs their passes: `steps` forwards and backwards for most.

    Source: Kim, "Torchattacks: A PyTorch Repository for Adversarial Attacks", arXiv 2010.01950.
    Differs from the source: unfolded, MIFGSM and its kin normalize every slice of the last axis by itself.
        Random numbers come from the seed of the sample, drawn on the device of the images; the global random
        state is put back. A masked voxel gives no gradient. As in the source and unlike our own attacks, the last
        iterate is returned, not the best one, and where the gradient of the whole volume is zero, MIFGSM and its
        kin divide 0 by 0 and stay where they are.

    Args:
        name: their class, in any case: one of `SUPPORTED`. Those in `REFUSED` need one label per image or 2D images.
        parameters: arguments of their constructor without the model, a mapping or pairs; what is left out takes their
            default. Intensities in [0, 1]; the radius of PGDL2 is the Euclidean norm of the whole volume.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images. Their loops show no points: `on_step` is not called.
    Raises:
        ImportError: without torchattacks.
        ValueError: if the attack is unknown or refused, a parameter is unknown or out of range; when called with
            targets, if the attack follows none.

    Example:
        >>> import torch
        >>> from robustvox.attacks.interop import TorchAttack
        >>> model = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> attack = TorchAttack(name="mifgsm", parameters={"eps": 8 / 255, "steps": 2})
        >>> attack.name, [key for key, _ in attack.parameters]
        ('MIFGSM', ['alpha', 'decay', 'eps', 'steps'])
        >>> bool((attack(model, images, labels) - images).abs().max() <= 8 / 255)
        True
    """

    name: str
    parameters: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", _known(self.name))
        given, defaults = dict(self.parameters), _defaults(self.name)
        for key in given:
            if key not in defaults:
                near = difflib.get_close_matches(str(key), defaults, n=1)
                raise ValueError(
                    f"{key}: expected a parameter of {self.name} ({', '.join(sorted(defaults)) or 'it has none'}), "
                    f"got an unknown one. {_hint(near, 'Drop it')}"
                )
        full = [(key, self._checked(key, given.get(key, defaults[key]))) for key in sorted(defaults)]
        object.__setattr__(self, "parameters", tuple(full))

    def _checked(self, key: str, value: Any) -> Any:
        """The value, of the type of their default; they check nothing themselves."""
        default = _defaults(self.name)[key]
        if isinstance(default, str):
            # The other losses of UPGD index one label per image.
            checks.choice(key, value, ("ce",))
        elif isinstance(default, bool):
            checks.flag(key, value)
        elif isinstance(default, int):
            checks.whole(key, value, 0 if key == "steps" else 1)
        else:
            if SUPPORTED[self.name] == "linf" and key in ("eps", "alpha"):
                checks.budget(key, value)
            checks.real(key, value, 0.0)
            return float(value)
        return value

    @property
    def radius(self) -> float | None:
        return dict(self.parameters)["eps"] if SUPPORTED[self.name] == "linf" else None

    def perturb(self, task: Task) -> Tensor:
        return torch.cat([self._run(task.sample(i)) for i in range(len(task.images))])

    def _run(self, task: Task) -> Tensor:
        """Their result for a task of one sample."""
        attack = getattr(package(), self.name)(_Folded(task), **dict(self.parameters))
        if task.targets is not None:
            if "targeted" not in attack.supported_mode:
                raise ValueError(
                    f"targets: expected None for torchattacks {self.name}, got a tensor. "
                    "It follows no target: use PGD"
                )
            attack.set_mode_targeted_by_label(quiet=True)
        with _seeded(task.seeds[0], task.images.device):
            folded = attack(_fold(task.images, 2), _fold(task.aim[:, 0], 1))
        return folded.detach().reshape(task.images.shape)


class _Folded(nn.Module):
    """The model of a task as their attacks see it: folded images in, folded logits out.

    The model itself stays out of `modules()`: their switching of training modes must not reach it.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        # They ask the first parameter for the device.
        self.device_tag = nn.Parameter(task.images.new_empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        task = self.task
        logits = task.logits(images.reshape(-1, *task.images.shape[1:]))
        if images.requires_grad and not logits.requires_grad:
            raise ValueError(
                "model output: expected logits connected to the images by autograd, got a constant. "
                "Remove no_grad, inference_mode, detach or numpy from the model's forward"
            )
        if task.mask is not None:
            logits = torch.where(task.mask, logits, logits.detach())
        return _fold(logits, 2)


def _known(name: Any) -> str:
    """Their spelling of a supported name."""
    names = {key.lower(): key for key in (*SUPPORTED, *REFUSED)}
    written = str(name).lower().replace("-", "").replace("_", "")
    found = names.get(written)
    if found in REFUSED:
        raise ValueError(
            f"{found}: expected an attack that suits volumes, got one that does not: {REFUSED[found]}"
        )
    if found is None:
        near = [names[key] for key in difflib.get_close_matches(written, names, n=1)]
        raise ValueError(
            f"name: expected one of {', '.join(SUPPORTED)}, got {name!r}. {_hint(near, 'Pick one of these')}"
        )
    return found


def _hint(near: list[str], otherwise: str) -> str:
    return f"Did you mean {near[0]}?" if near else otherwise


@functools.cache
def _defaults(name: str) -> dict[str, Any]:
    """Constructor arguments of their attack and their defaults."""
    parameters = inspect.signature(getattr(package(), name)).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key != "model"}


def _fold(values: Tensor, axes: int) -> Tensor:
    """All spatial axes but the first in one, behind `axes` leading ones."""
    return values.reshape(*values.shape[: axes + 1], -1)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random state, of the CPU and of this device, seeded inside and put back after."""
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=kind):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            module = getattr(torch, device.type)
            with module.device(device):
                module.manual_seed(seed)
        yield
