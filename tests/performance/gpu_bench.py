"""What the parts of ``gpu.py`` share: sizes, the card, its clock and its memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvox.models import build_model
from robustvox.models.window_memory import is_out_of_memory

CLASSES = 14
_TURNS_S = 6.0  # that the turns of one row may take


@dataclass(frozen=True)
class Sizes:
    """What is measured; the tiny ones only show that it runs."""

    roi: tuple[int, int, int] = (96, 96, 96)
    volume: tuple[int, int, int] = (192, 160, 128)
    networks: tuple[tuple[str, str], ...] = (
        ("unet", "paper"), ("unetr", "paper"), ("swin_unetr", "paper"), ("segresnet", "paper"),
        ("umamba_bot", "paper"), ("segmamba", "small"), ("mamba_unet", "small"),
    )  # fmt: skip
    windowed: tuple[str, ...] = ("unet", "unetr", "swin_unetr", "segresnet", "umamba_bot")
    stepped: tuple[str, ...] = ("unet", "unetr", "swin_unetr", "segresnet", "umamba_bot")
    cases: tuple[str, ...] = ("unet", "unetr", "swin_unetr", "segmamba")
    batches: tuple[int, ...] = (1, 4, 16)
    scans: tuple[tuple[int, int], ...] = ((13_824, 64), (110_592, 32), (110_592, 96), (884_736, 32))
    steps: int = 5
    attack_steps: int = (
        20  # what attacks take unless told otherwise; an attack's closing forward counts in its steps
    )
    repeats: int = 5
    minutes: float = 7.5


TINY = Sizes(
    roi=(32, 32, 32), volume=(40, 32, 32), networks=(("unet", "small"), ("mamba_unet", "small")),
    windowed=("unet",), stepped=("unet",), cases=("unet",), batches=(1, 2), scans=((64, 4),),
    steps=2, attack_steps=2, repeats=1,
)  # fmt: skip


@dataclass
class Bench:
    """The card, the sizes, the rows so far, and what is left of the time."""

    device: torch.device
    sizes: Sizes
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deadline: float = float("inf")

    def part(self, name: str) -> str:
        """Start a table."""
        self.tables[name] = []
        print(f"\n== {name}", flush=True)
        return name

    def add(self, part: str, **row: Any) -> None:
        self.tables[part].append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    def late(self, part: str, what: str) -> bool:
        """Whether the time of this part is over; then the row that is left out is written down."""
        if time.perf_counter() < self.deadline:
            return False
        self.add(part, left_out=what)
        return True

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, *works: Callable[[], object], repeats: int | None = None) -> list[float]:
        """Medians; the works take turns. What takes long varies little and is repeated less often."""
        for work in works:
            work()
        self.wait()
        start = time.perf_counter()
        for work in works:
            work()
        self.wait()
        afford = int(_TURNS_S / max(time.perf_counter() - start, 1e-9))
        times: list[list[float]] = [[] for _ in works]
        for _ in range(max(2, min(repeats or self.sizes.repeats, afford))):
            for work, taken in zip(works, times, strict=True):
                self.wait()
                start = time.perf_counter()
                work()
                self.wait()
                taken.append(1e3 * (time.perf_counter() - start))
        return [round(statistics.median(taken), 2) for taken in times]

    def peak_gib(self, work: Callable[[], object]) -> float | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return round(torch.cuda.max_memory_allocated(self.device) / 2**30, 1)

    def network(self, name: str) -> nn.Module:
        size = dict(self.sizes.networks).get(name, "paper")
        torch.manual_seed(0)
        built = build_model(name, in_channels=1, num_classes=CLASSES, roi_size=self.sizes.roi, size=size)
        return built.eval().requires_grad_(False).to(self.device)

    def images(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def labels(self, images: Tensor) -> Tensor:
        shape = (images.shape[0], 1, *images.shape[2:])
        return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(2)).to(self.device)


def gradient(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor | None = None) -> Tensor:
    with torch.enable_grad():
        variable = images.clone().requires_grad_()
        logits = model(variable)
        value = logits.square().mean() if labels is None else F.cross_entropy(logits, labels[:, 0])
        return torch.autograd.grad(value, variable)[0]


def fits(work: Callable[[], object]) -> bool:
    try:
        work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fit = False
    else:
        fit = True
    gc.collect()  # what a failed pass or a recording held stands in circles
    torch.cuda.empty_cache()
    return fit
