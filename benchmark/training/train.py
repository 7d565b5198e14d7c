"""Training of the zoo's small networks: one seeded recipe, minutes on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.losses.dice import DiceCELoss
from torch import nn

from robustvox.datasets import Dataset, channel_names_of
from robustvox.models import CATALOG, ModelCard, SlidingWindow, build_model, load_checkpoint, save_checkpoint
from robustvox.models.checkpoint import load_strictly

from ..records.provenance import version
from ..records.unit import digest
from ..specs.defences import CATALOG as DEFENCES
from ..specs.spec import Spec
from .card import cost, validation
from .defences import NATURAL, Defence, NamedDefence, Natural
from .recipe import Progress, Recipe
from .resume import Resume, Run
from .step import Gradients, Step
from .watch import STEPS, Look, Watch, catastrophic
from .windows import Sample, Windows, WindowStream, channels_last


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How a training with a defence is watched.

    Args:
        cases: of the end of the validation split, whose start the tables are of; 0 for no look at all.
        looks: moments at which the averaged weights are attacked, besides the one before the first step.
        eps: L-inf radius; None for the defence's, or 8/255 where that has none.
    """

    cases: int = 8
    looks: int = 4
    eps: float | None = None


@dataclass(frozen=True)
class Trained:
    """What a training gives: the card that went into the checkpoint, what was seen on the way, and its cost."""

    card: ModelCard
    looks: tuple[Look, ...]
    gradients: Gradients
    seconds: float
    overfitted: bool


def train(
    model: Spec,
    dataset: Dataset,
    *,
    path: Path,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    defence: NamedDefence = NATURAL,
    start: Path | None = None,
    pretrained: Path | None = None,
    watching: Watching | None = None,
    on_step: Callable[[Progress], None] | None = None,
    roi_size: Sequence[int] | None = None,
    state: Path | None = None,
) -> Trained:
    """Train one network on the ``train`` split, write its checkpoint, return its card and what was seen.

    Without a defence the averaged weights of the last step are kept (no selection on the validation split, which
    only gives the Dice on the card); with one, those of the look with the best Dice under PGD-10. Same seed, same
    machine, same thread count: same weights.

    Args:
        model: architecture and overrides, ``unet:size=small``.
        dataset: gives volumes, classes and the window size.
        path: where the ``.safetensors`` file goes.
        recipe: optimization and augmentation.
        seed: of initialization, window sampling, augmentation and attacks.
        device: where to train.
        defence: what a step minimizes.
        start: checkpoint whose weights training starts from.
        pretrained: checkpoint of the same architecture for other classes, of which every weight of the same shape is
            taken and the others stay random.
        watching: how a training with a defence is watched.
        on_step: called after every step.
        roi_size: window in voxels; default the dataset's.
        state: file that keeps an unfinished training; the same call goes on from it. None keeps nothing.

    Raises:
        ValueError: no window, or a start of another network.
    """
    recipe, watching = recipe or Recipe(), watching or Watching()
    torch.manual_seed(seed)
    arguments = {"size": "small", **model.parameters}
    roi_size = tuple(roi_size or dataset.roi_size)
    if not roi_size:
        raise ValueError(f"expected a roi_size for {dataset.name}, which has none of its own; give one")
    network = build_model(
        model.name,
        in_channels=dataset.in_channels,
        num_classes=len(dataset.class_names),
        roi_size=roi_size,
        **arguments,
    )
    begun = _begin(network, model.name, start, pretrained)
    network = network.to(device).to(memory_format=channels_last(len(roi_size)))
    samples = [Sample.of(dataset.load(case)) for case in dataset.splits["train"]]
    watch = _watch(dataset, defence, watching, recipe, roi_size, seed, device)
    asked = {
        **asdict(recipe),
        "optimizer": "AdamW",
        "loss": "DiceCE",
        "adversarial": defence.spec,
        **({"start": begun} if begun else {}),
    }
    # Published loss of the benchmark; batch=False keeps samples apart.
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    identity = digest(
        {"model": str(model), "data": dict(dataset.provenance), "roi": roi_size, "seed": seed, **asked}
    )
    resume = None if state is None else Resume(path=state, identity=identity, watch=watch)
    run = optimize(
        network,
        samples,
        roi_size,
        recipe,
        criterion,
        seed=seed,
        defence=defence.defence,
        on_step=on_step,
        watch=watch,
        resume=resume,
    )
    averaged = run.averaged
    if watch is not None:
        averaged.load_state_dict(watch.best)
        asked["selected"] = {
            "rule": "last" if watch.last else f"best Dice under PGD-{STEPS}",
            **asdict(watch.chosen),
        }
    card = _card(model, dataset, averaged, roi_size, asked, seed, device)
    save_checkpoint(path, averaged, card)
    if resume is not None:
        resume.remove()
    looks = () if watch is None else tuple(watch.looks)
    return Trained(card, looks, run.gradients, run.seconds, catastrophic(looks))


def _card(
    model: Spec,
    dataset: Dataset,
    averaged: nn.Module,
    roi_size: Sequence[int],
    asked: dict[str, Any],
    seed: int,
    device: str | torch.device,
) -> ModelCard:
    """What the checkpoint says of itself."""
    window = SlidingWindow(averaged, roi_size, overlap=0.5, sw_batch_size=4)
    return ModelCard(
        **validation(window, dataset, device),
        **cost(averaged, dataset, roi_size),
        source=CATALOG[model.name].source,
        architecture=model.name,
        arguments={"size": "small", **model.parameters},
        in_channels=dataset.in_channels,
        class_names=dataset.class_names,
        channel_names=channel_names_of(dataset),
        roi_size=tuple(roi_size),
        dataset=dataset.name,
        window=dataset.provenance["preprocessing"],
        recipe=asked,
        data=dict(dataset.provenance),
        seed=seed,
        code_version=version(),
    )


def _begin(network: nn.Module, architecture: str, start: Path | None, pretrained: Path | None) -> str:
    """Give a network the weights it starts from; what a card says of them, empty for random ones.

    Raises:
        ValueError: both, another architecture, or other sizes.
    """
    if start is not None and pretrained is not None:
        raise ValueError("expected start or pretrained, got both; weights come from one file")
    path = start or pretrained
    if path is None:
        return ""
    loaded = load_checkpoint(path, architecture)
    found = loaded.network.state_dict()
    if start is not None:
        load_strictly(network, found, path.name)
        return loaded.sha256
    own = network.state_dict()
    taken = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict({**own, **taken})
    return f"{len(taken)} of {len(own)} tensors of {loaded.sha256}"


def _watch(
    dataset: Dataset,
    defence: NamedDefence,
    watching: Watching,
    recipe: Recipe,
    roi_size: Sequence[int],
    seed: int,
    device: str | torch.device,
) -> Watch | None:
    """Who looks on: nobody in a training without a defence."""
    if not defence.name or not watching.cases:
        return None
    cases = dataset.splits["validation"][-watching.cases :]
    eps = defence.defence.radius if watching.eps is None else watching.eps
    return Watch(
        volumes=[dataset.load(case) for case in cases],
        num_classes=len(dataset.class_names),
        roi_size=roi_size,
        eps=8 / 255 if eps is None else eps,
        every=max(recipe.steps // max(watching.looks, 1), 1),
        seed=seed,
        device=device,
        last=DEFENCES[defence.name].control,
    )


def optimize(
    network: nn.Module,
    samples: Sequence[Sample],
    roi_size: Sequence[int],
    recipe: Recipe,
    criterion: nn.Module,
    *,
    seed: int,
    defence: Defence | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_average: Callable[[int, nn.Module], None] | None = None,
    watch: Watch | None = None,
    resume: Resume | None = None,
) -> Run:
    """Run the recipe on the network's device; ``averaged`` of the result is what to use, in eval mode.

    Args:
        network: trained in place.
        samples: what to train on.
        roi_size: window in voxels.
        recipe: optimization and augmentation.
        criterion: of logits and targets as a window stream gives them.
        seed: of windows and augmentation.
        defence: what a step minimizes; by default the criterion.
        on_step: called after every step.
        on_average: called after every step with its number, from 1, and the averaged weights so far, which go on
            changing.
        watch: looks at the averaged weights before the first step, every so many and after the last.
        resume: where the training is kept on its way, and taken up from.
    """
    defence = defence or Natural()
    run = Run.start(network, WindowStream(samples, roi_size, recipe, seed), recipe)
    if resume is not None:
        resume.load(run)
    if watch is not None and not watch.looks:
        watch.look(0, run.averaged)
    network.train()
    for number in range(run.done, recipe.steps):
        begun = time.perf_counter()
        if number % defence.replays == 0:
            windows = _on_device(next(run.stream), run.device)
        step = Step(
            network=network,
            windows=windows,
            criterion=criterion,
            seed=seed,
            number=number,
            memory=run.memory,
            gradients=run.gradients,
        )
        loss = defence.loss(step)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        defence.after(step)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        run.optimizer.step()
        run.schedule.step()
        run.done = number + 1
        _move_average(run.averaged, network, decay=min(recipe.ema, run.done / (run.done + 10)))
        run.seconds += time.perf_counter() - begun
        if on_average is not None:
            on_average(run.done, run.averaged)
        if watch is not None and (run.done % watch.every == 0 or run.done == recipe.steps):
            watch.look(run.done, run.averaged, **asdict(run.gradients), seconds=run.seconds)
        if on_step is not None:
            on_step(Progress(run.done, recipe.steps, float(loss.detach()), run.seconds))
        if resume is not None and run.done % defence.replays == 0:
            resume.save(run)
    return run


def _on_device(windows: Windows, device: torch.device) -> Windows:
    images = windows.images.to(device).contiguous(memory_format=channels_last(windows.images.ndim - 2))
    return replace(windows, images=images, targets=windows.targets.to(device))


@torch.no_grad()
def _move_average(averaged: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move every weight of the average towards the network's; counters are taken over as they are."""
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
