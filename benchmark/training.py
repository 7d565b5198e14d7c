"""The ``train`` command: resolve names, show progress, write the checkpoint into the zoo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustvox.models import CATALOG

from .console import make_console, progress
from .loading import ZOO, load_attack, load_dataset
from .running import choose_device
from .specs import Spec, UsageError, match
from .train import Progress, Recipe, train


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The command line of ``train`` as written; see ``python -m benchmark train --help``."""

    model: str
    dataset: str = "phantom"
    data_root: Path | None = None
    steps: int = 1000
    batch_size: int = 2
    lr: float = 2e-3
    adversarial: str | None = None
    seed: int = 0
    device: str = "auto"
    checkpoint: Path | None = None


def train_model(request: TrainRequest) -> int:
    """Train what the request says and print where the checkpoint went and its validation Dice."""
    spec = Spec.parse(request.model)
    spec = Spec(match(spec.name, CATALOG, "model"), spec.parameters)
    dataset = load_dataset(request.dataset, request.data_root)
    attack = load_attack(request.adversarial) if request.adversarial else None
    path = request.checkpoint or ZOO / dataset.name / f"{spec.name}.safetensors"
    recipe = Recipe(steps=request.steps, batch_size=request.batch_size, lr=request.lr)
    with progress(f"train {spec.name} on {dataset.name}", request.steps) as bar:

        def show(step: Progress) -> None:
            bar.update(bar.task_ids[0], completed=step.step, description=f"{spec.name} loss {step.loss:.3f}")

        try:
            card = train(
                spec,
                dataset,
                path=path,
                recipe=recipe,
                seed=request.seed,
                device=choose_device(request.device),
                attack=attack,
                on_step=show,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    make_console().print(f"{path}: validation Dice {card.validation_dice:.4f}")
    return 0
