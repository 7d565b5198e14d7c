"""The ``train`` command: resolve names, show progress, write the checkpoint into the zoo."""

from __future__ import annotations

from robustvox.models import CATALOG, ZOO

from ...plan.attacks import load_attack
from ...plan.cases import load_dataset
from ...plan.models import choose_device
from ...specs.requests import TrainRequest
from ...specs.spec import Spec, UsageError, match
from ...training.recipe import Progress, Recipe
from ...training.train import train
from .console import make_console, progress


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
