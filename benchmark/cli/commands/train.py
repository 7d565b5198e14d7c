"""The ``train`` command: resolve names, show progress, write the checkpoint."""

from __future__ import annotations

from pathlib import Path

from robustvox.datasets import Dataset
from robustvox.models import CATALOG, build_model

from ...harness.faults import require_folder
from ...plan.attacks import load_attack
from ...plan.bring import take_data_parameters
from ...plan.cases import load_dataset, require_cases
from ...plan.models import choose_device
from ...plan.windows import choose_window, read_window, with_window
from ...plan.zoo import OWN_ZOO, zoo_file
from ...records.sources import zoo_name
from ...report.training import described, write_training_report
from ...specs.requests import TrainRequest
from ...specs.spec import Spec, UsageError, match
from ...training.defences import NATURAL, NamedDefence, build_defence
from ...training.recipe import Progress, Recipe
from ...training.train import Trained, Watching, train
from ..codes import DONE
from ..stopping import stopping
from .console import make_console, progress


def train_model(request: TrainRequest) -> int:
    """Train what the request says and print where the checkpoint went and its validation Dice.

    An unfinished training lies beside its checkpoint; the same command goes on from there.
    """
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
    defence = _defence(request)
    name = spec.name + (f".{defence.name}" if defence.name else "")
    path = request.checkpoint or OWN_ZOO / zoo_name(dataset) / f"{name}.safetensors"
    start = request.start
    if start is not None and str(start) == "zoo":
        start = zoo_file(dataset, spec.name)
    require_folder(path.parent, option="--checkpoint")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with (
        stopping(lambda: _whereabouts(done, request.steps)),
        progress(f"train {name} on {dataset.name}", request.steps) as bar,
    ):

        def show(step: Progress) -> None:
            nonlocal done
            done = step.step
            bar.update(bar.task_ids[0], completed=step.step, description=f"{name} loss {step.loss:.3f}")

        try:
            trained = train(
                spec,
                dataset,
                path=path,
                recipe=_recipe(request),
                seed=request.seed,
                device=choose_device(request.device),
                defence=defence,
                start=start,
                watching=Watching(cases=request.look_cases, looks=request.looks),
                on_step=show,
                roi_size=roi_size,
                state=path.with_name(f"{path.name}.state"),
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
    ours = request.checkpoint is not None or zoo_file(dataset, name) == path
    _tell(request, trained, path, "" if ours else spec.name)
    return DONE


def _whereabouts(done: int, steps: int) -> str:
    """For who stops a training."""
    return (
        f"after step {done} of {steps}; at most the last 20, or the last minute, are done again"
        if done
        else "before a step"
    )


def _tell(request: TrainRequest, trained: Trained, path: Path, other: str) -> None:
    """What came of it; ``other`` is a model whose name alone means another checkpoint."""
    console = make_console()
    console.print(f"{path}: validation Dice {trained.card.validation_dice:.4f}")
    if other:
        console.print(
            f"--model {other} alone means the checkpoint that comes with the code; this one is --checkpoint {path}"
        )
    for line in described(trained):
        console.print(line)
    if request.report is not None and trained.looks:
        console.print(
            f"{write_training_report(request.report, path.name.removesuffix('.safetensors'), trained)}"
        )


def _recipe(request: TrainRequest) -> Recipe:
    return Recipe(
        steps=request.steps,
        batch_size=request.batch_size,
        lr=request.lr,
        turn=request.turn,
        gamma=request.gamma,
    )


def _defence(request: TrainRequest) -> NamedDefence:
    """The defence that was asked for, under its own name or as an attack alone.

    Raises:
        UsageError: both, or one that cannot be.
    """
    if request.adversarial and request.defence:
        raise UsageError("expected --defence or --adversarial, got both; name the attack within --defence")
    if request.adversarial:
        attack = Spec.parse(request.adversarial)
        inner = {"attack": attack.name, "share": 1, **attack.parameters}
        return build_defence(Spec("pgd_at", inner), load_attack)
    return build_defence(Spec.parse(request.defence), load_attack) if request.defence else NATURAL


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
