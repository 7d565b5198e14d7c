"""The ``train`` command: resolve names, show progress, write the checkpoint into the zoo."""

from __future__ import annotations

from robustvox.datasets import Dataset
from robustvox.models import CATALOG, ZOO, build_model

from ...plan.attacks import load_attack
from ...plan.bring import take_data_parameters
from ...plan.cases import load_dataset, require_cases
from ...plan.models import choose_device
from ...plan.windows import choose_window, read_window, with_window
from ...records.sources import zoo_name
from ...specs.requests import TrainRequest
from ...specs.spec import Spec, UsageError, match
from ...training.recipe import Progress, Recipe
from ...training.train import train
from ..codes import DONE
from .console import make_console, progress


def train_model(request: TrainRequest) -> int:
    """Train what the request says and print where the checkpoint went and its validation Dice."""
    spec = Spec.parse(request.model)
    spec = Spec(match(spec.name, CATALOG, "model"), spec.parameters)
    dataset = load_dataset(request.dataset, request.data_root)
    for split in ("train", "validation"):
        require_cases(dataset, split, remedy=f"training needs it; declare which cases are in {split}")
    parameters, asked = take_data_parameters(spec.name, spec.parameters, dataset)
    spec = Spec(spec.name, parameters)
    roi_size = _window(
        spec, dataset, asked or (request.roi_size and read_window(request.roi_size, "--roi-size")) or None
    )
    attack = load_attack(request.adversarial) if request.adversarial else None
    path = request.checkpoint or ZOO / zoo_name(dataset) / f"{spec.name}.safetensors"
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
                roi_size=roi_size,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        except RuntimeError as error:
            # What PyTorch raises for a network that was built and cannot be run, `unet:channels=(0,4)`, or for memory.
            said = " ".join(str(error).split())
            raise UsageError(
                f"expected {spec} to run on windows of {'x'.join(map(str, roi_size))}, found: {said}; change the parameters, "
                "--roi-size or --batch-size"
            ) from error
    make_console().print(f"{path}: validation Dice {card.validation_dice:.4f}")
    return DONE


def _window(spec: Spec, dataset: Dataset, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """The window that was asked for, the dataset's, or the first that suits its volumes and the architecture.

    Raises:
        UsageError: a window or a parameter that the architecture does not take.
    """

    def build(roi_size: tuple[int, ...]) -> None:
        build_model(
            spec.name,
            in_channels=dataset.in_channels,
            num_classes=len(dataset.class_names),
            roi_size=roi_size,
            **{"size": "small", **spec.parameters},
        )

    try:
        return with_window(choose_window(dataset, asked), build, ValueError)[1]
    except ValueError as error:
        raise UsageError(str(error)) from error
