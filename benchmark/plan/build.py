"""From a request to a plan: every name resolved, every combination checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robustvox.datasets import Dataset
from robustvox.datasets.folder import CaseFolder

from ..craft.named import NamedAttack, NamedModel
from ..records.sources import path_of
from ..records.volumes import UNITS
from ..specs.knobs import MEASURES
from ..specs.protocols import Protocol, find_protocol
from ..specs.requests import RunRequest
from ..specs.spec import UsageError, match, normalize
from .attacks import load_attack, match_all
from .cases import EVERY_SPLIT, load_dataset, select_cases
from .model_text import parse_model
from .models import choose_device, load_model
from .plan import Plan
from .saved import open_folder
from .windows import read_window


def build_plan(request: RunRequest) -> Plan:
    """Resolve every name of the request.

    Raises:
        UsageError: for any name, parameter, path or combination that cannot be.
    """
    if request.adversarial is not None:
        return _build_rescoring(request, request.adversarial)
    if not request.models or not request.attacks:
        raise UsageError("expected at least one --model and one --attack; see `python -m benchmark list`")
    protocol = find_protocol(request.protocol)
    attacks = load_attacks(request, protocol)
    dataset = load_requested(request)
    device = choose_device(request.device)
    models = load_models(request, dataset, protocol, device)
    split = request.split or "validation"
    cases = select_cases(dataset, split, request.cases or "first:4", held_out(split, models))
    surrogates = models[: len(request.models)]
    targets = models[len(request.models) :] if request.targets and not request.transfer else models
    if request.units not in UNITS:
        raise UsageError(f"expected --units among {', '.join(UNITS)}, got {request.units!r}")
    return Plan(
        dataset=dataset,
        cases=cases,
        surrogates=surrogates,
        targets=targets,
        attacks=attacks,
        protocol=protocol,
        seed=request.seed,
        device=device,
        white_box=not (request.targets or request.transfer),
    )


def _build_rescoring(request: RunRequest, directory: Path) -> Plan:
    """The plan that scores the volumes saved in a directory on ``--target``; models and attacks are in their notes."""
    given = {
        "--model": request.models,
        "--attack": request.attacks,
        "--transfer": request.transfer,
        "--match": request.match,
        "--save-adversarial": request.save_adversarial,
    }
    superfluous = [option for option, value in given.items() if value]
    if superfluous or not request.targets:
        raise UsageError(
            "expected --adversarial DIR with --target NAME and neither model nor attack, which the files know; got "
            + (", ".join(superfluous) or "no --target")
        )
    protocol = find_protocol(request.protocol)
    dataset = load_requested(request)
    device = choose_device(request.device)
    folder = open_folder(
        directory,
        dataset,
        protocol.name,
        select_cases(dataset, request.split or EVERY_SPLIT, request.cases or "all"),
    )
    if not folder.volumes and not folder.refused:
        raise UsageError(f"expected volumes of the chosen cases in {directory}, found none; see --cases")
    targets = load_models(replace(request, models=request.targets, targets=()), dataset, protocol, device)
    return Plan(
        dataset=dataset,
        cases=folder.cases,
        surrogates=(),
        targets=targets,
        attacks=(),
        protocol=protocol,
        # Of the clean images only, which no seed changes: theirs are then found in the records.
        seed=min((volume.note.seed for volume in folder.volumes), default=request.seed),
        device=device,
        saved=folder.volumes,
        refused=folder.refused,
    )


def load_requested(request: RunRequest) -> Dataset:
    """The dataset of a request, under the name its results have."""
    dataset = load_dataset(request.dataset, request.data_root, request.out)
    path = path_of(dataset)
    if request.dataset_name is None or path is None or not isinstance(dataset, CaseFolder):
        return dataset
    return dataset.renamed(request.dataset_name, path)


def load_attacks(request: RunRequest, protocol: Protocol) -> list[NamedAttack]:
    """The attacks in the order given, matched to a reference where ``--match`` names one."""
    attacks = [load_attack(text, protocol) for text in request.attacks]
    if request.match is None:
        if request.match_on is not None:
            raise UsageError("expected --match ATTACK with --match-on, got none; add --match pgd:eps=8/255")
        return attacks
    measure = match(request.match_on or "l2", MEASURES, "--match-on")
    return match_all(attacks, load_attack(request.match, protocol), measure)


def held_out(split: str, models: Sequence[NamedModel]) -> tuple[str, ...] | None:
    """What the models were validated on, where ``validation`` is asked for and all say the same; else None."""
    told = {model.held_out for model in models}
    return next(iter(told)) if len(told) == 1 and normalize(split) == "validation" else None


def load_models(request: RunRequest, dataset: Dataset, protocol: Protocol, device: str) -> list[NamedModel]:
    """Surrogates in the order given, then targets; one that is named twice is loaded once."""
    models = [parse_model(text) for text in request.models]
    named = [model for model in models if model.takes_checkpoint]
    if len(request.checkpoints) not in (0, len(named)):
        raise UsageError(
            f"expected one --checkpoint per {'--target' if request.adversarial else '--model'} ({len(named)}, a path "
            f"has its own weights), got {len(request.checkpoints)}; repeat it in the order of the models"
        )
    files = iter(request.checkpoints)
    order = [(model, next(files, None) if model.takes_checkpoint else None) for model in models]
    for text in request.targets:
        target = parse_model(text)
        # A target that is also attacked is the same network, so it has the same weights.
        same = {file for model, file in order if model.identity == target.identity}
        if len(same) > 1:
            raise UsageError(
                f"expected one --checkpoint for the target {text}, got {len(same)}; name the target by its file"
            )
        order.append((target, next(iter(same), None)))
    loaded: dict[tuple[str, Path | None], NamedModel] = {}
    for model, checkpoint in order:
        if (model.identity, checkpoint) not in loaded:
            loaded[model.identity, checkpoint] = load_model(
                model,
                dataset,
                protocol,
                checkpoint=checkpoint,
                untrained=request.untrained,
                device=device,
                compute=request.compute,
                seed=request.seed,
                roi_size=None if request.roi_size is None else read_window(request.roi_size, "--roi-size"),
            )
    return [loaded[model.identity, checkpoint] for model, checkpoint in order]
