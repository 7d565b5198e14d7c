"""From a request to a plan: every name resolved, every combination checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robustvox.datasets import Dataset
from robustvox.datasets.folder import CaseFolder

from ..craft.named import NamedAttack, NamedModel
from ..records.sources import path_of
from ..specs.crossing import Computing, Crossing
from ..specs.knobs import MEASURES
from ..specs.program import pasted
from ..specs.protocols import Protocol, find_protocol
from ..specs.spec import UsageError, match, normalize
from .attacks import load_attack, match_all
from .cases import EVERY_SPLIT, load_dataset, select_cases
from .labels import require_labels, with_labels
from .model_text import parse_model
from .models import choose_device, load_model
from .plan import Plan, once
from .saved import open_folder
from .windows import read_window


def build_plan(
    crossing: Crossing, computing: Computing, out: Path | None = None, *, option: str = "--cases"
) -> Plan:
    """Resolve every name of a crossing.

    Args:
        crossing: what is crossed.
        computing: on what device, in what precision.
        out: folder of the results, which tells a dataset given by its path from another of the same name.
        option: where the cases were typed.

    Raises:
        UsageError: for any name, parameter, path or combination that cannot be.
    """
    if crossing.adversarial is not None:
        return _build_rescoring(crossing, computing, out, crossing.adversarial, option)
    if not crossing.models or not crossing.attacks:
        raise UsageError(f"expected at least one --model and one --attack; see `{pasted(['list'])}`")
    require_labels(crossing.model_labels, "--model", len(crossing.models))
    protocol = find_protocol(crossing.protocol)
    attacks = load_attacks(crossing, protocol)
    dataset = load_crossed(crossing, out)
    device = choose_device(computing.device)
    models = with_labels(load_models(crossing, computing, dataset, protocol, device), crossing.model_labels)
    if crossing.transfer and len(once(models)) < 2:
        raise UsageError(
            f"expected at least two --model with --transfer, got {crossing.models[0]} alone; add another --model, or leave "
            "--transfer out"
        )
    split = crossing.split or "validation"
    crafting = len(crossing.models)
    return Plan(
        dataset=dataset,
        cases=select_cases(
            dataset, split, crossing.cases or "first:4", held_out(split, models), option=option
        ),
        surrogates=once(models[:crafting]),
        targets=once(models[crafting:] if crossing.targets and not crossing.transfer else models),
        attacks=attacks,
        protocol=protocol,
        seed=crossing.seed,
        device=device,
        white_box=not (crossing.targets or crossing.transfer),
    )


def _build_rescoring(
    crossing: Crossing, computing: Computing, out: Path | None, directory: Path, option: str
) -> Plan:
    """The plan that scores the volumes saved in a directory on ``--target``; models and attacks are in their notes."""
    given = {
        "--model": crossing.models,
        "--attack": crossing.attacks,
        "--transfer": crossing.transfer,
        "--match": crossing.match,
    }
    superfluous = [option for option, value in given.items() if value]
    if superfluous or not crossing.targets:
        raise UsageError(
            "expected --adversarial DIR with --target NAME and neither model nor attack, which the files know; got "
            + (", ".join(superfluous) or "no --target")
        )
    require_labels(crossing.model_labels, "--target", len(crossing.targets))
    protocol = find_protocol(crossing.protocol)
    dataset = load_crossed(crossing, out)
    device = choose_device(computing.device)
    folder = open_folder(
        directory,
        dataset,
        protocol.name,
        select_cases(dataset, crossing.split or EVERY_SPLIT, crossing.cases or "all", option=option),
    )
    if not folder.volumes and not folder.refused:
        raise UsageError(f"expected volumes of the chosen cases in {directory}, found none; see {option}")
    owned = replace(crossing, models=crossing.targets, targets=())
    targets = with_labels(load_models(owned, computing, dataset, protocol, device), crossing.model_labels)
    return Plan(
        dataset=dataset,
        cases=folder.cases,
        surrogates=(),
        targets=once(targets),
        attacks=(),
        protocol=protocol,
        # Of the clean images only, which no seed changes: theirs are then found in the records.
        seed=min((volume.note.seed for volume in folder.volumes), default=crossing.seed),
        device=device,
        saved=folder.volumes,
        refused=folder.refused,
    )


def load_crossed(crossing: Crossing, out: Path | None) -> Dataset:
    """The dataset that is crossed, under the name its results in ``out`` have."""
    dataset = load_dataset(crossing.dataset, crossing.data_root, out)
    path = path_of(dataset)
    if crossing.dataset_name is None or path is None or not isinstance(dataset, CaseFolder):
        return dataset
    return dataset.renamed(crossing.dataset_name, path)


def load_attacks(crossing: Crossing, protocol: Protocol) -> list[NamedAttack]:
    """The attacks in the order given, each once, matched to a reference where ``--match`` names one."""
    named = [load_attack(text, protocol) for text in crossing.attacks]
    attacks = list({attack.spec: attack for attack in named}.values())
    if crossing.match is None:
        if crossing.match_on is not None:
            raise UsageError("expected --match ATTACK with --match-on, got none; add --match pgd:eps=8/255")
        return attacks
    measure = match(crossing.match_on or "l2", MEASURES, "--match-on")
    return match_all(attacks, load_attack(crossing.match, protocol), measure)


def held_out(split: str, models: Sequence[NamedModel]) -> tuple[str, ...] | None:
    """What the models were validated on, where ``validation`` is asked for and all say the same; else None."""
    told = {model.held_out for model in models}
    return next(iter(told)) if len(told) == 1 and normalize(split) == "validation" else None


def load_models(
    crossing: Crossing, computing: Computing, dataset: Dataset, protocol: Protocol, device: str
) -> list[NamedModel]:
    """Surrogates in the order given, then targets; one that is named twice is loaded once."""
    models = [parse_model(text) for text in crossing.models]
    named = [model for model in models if model.takes_checkpoint]
    if len(crossing.checkpoints) not in (0, len(named)):
        raise UsageError(
            f"expected one --checkpoint per {'--target' if crossing.adversarial else '--model'} ({len(named)}, a path "
            f"has its own weights), got {len(crossing.checkpoints)}; repeat it in the order of the models"
        )
    files = iter(crossing.checkpoints)
    order = [(model, next(files, None) if model.takes_checkpoint else None) for model in models]
    for text in crossing.targets:
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
                untrained=crossing.untrained,
                device=device,
                compute=computing.compute,
                seed=crossing.seed,
                roi_size=None if crossing.roi_size is None else read_window(crossing.roi_size, "--roi-size"),
            )
    return [loaded[model.identity, checkpoint] for model, checkpoint in order]
