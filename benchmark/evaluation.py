"""The harness from Python, on bare objects: nothing registered, nothing written."""

from __future__ import annotations

import copy
import hashlib
import math
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from robustvox.attacks import ATTACKS, Attack
from robustvox.datasets import CaseError, Dataset, Volume
from robustvox.datasets.bare import check_volumes
from robustvox.datasets.given import Reading, read_given
from robustvox.models import MultiLabel, Normalized, SlidingWindow
from robustvox.models.bring.foreign import check_window
from robustvox.models.case import CasePredictor
from robustvox.models.checkpoint import state_sha256
from robustvox.models.normalized import MOST_LABELS
from robustvox.models.precision import exact_float32

from .craft.named import NamedAttack, NamedModel
from .harness.bench import Bench
from .harness.execute import Event, execute
from .harness.watching import Listener, watched
from .plan.attacks import attack_spec, match_all
from .plan.bring import own_window
from .plan.plan import Plan
from .plan.windows import choose_window, read_window, with_window
from .records.reading import Records, load_records
from .records.store import RecordStore
from .show.evaluation import Evaluation, evaluation_of
from .specs.protocols import DEFAULT_PROTOCOL, Protocol, find_protocol


def evaluate(
    models: Mapping[str, nn.Module],
    attacks: Mapping[str, Attack],
    data: Any,
    *,
    cases: Sequence[str] | None = None,
    roi_size: Sequence[int] | int | None = None,
    num_classes: int | None = None,
    bounds: tuple[float, float] | None = None,
    spacing_mm: Sequence[float] | None = None,
    keys: tuple[str, str] = ("image", "label"),
    multilabel: Sequence[str] | None = None,
    transfer: bool = False,
    protocol: str = DEFAULT_PROTOCOL,
    seed: int = 0,
    device: str = "cpu",
    store: Path | None = None,
    match: Attack | None = None,
    match_on: str = "l2",
    progress: bool | Listener = False,
) -> Evaluation:
    """Attack every model with every attack and return the tables of results.

    The networks come back as they were: mode of every module, device, no gradients.

    Args:
        models: name to network ``(B, C, *roi)`` -> logits ``(B, K, *roi)``, or a whole-volume predictor
            (:class:`~robustvox.models.SlidingWindow`, or the predictor of :func:`~robustvox.models.bring.open_model`),
            which is used as it is.
        attacks: name to attack object.
        data: a dataset, or cases: each a :class:`~robustvox.datasets.Volume`, a pair ``(image, label)`` of arrays,
            tensors or MetaTensors, or a dictionary of both as MONAI's transforms make it; also by id, ``{"p1": case}``,
            or a loader, whose batches are taken apart. What is ambiguous is refused by
            :func:`~robustvox.datasets.bare.check_volume`.
        cases: which case ids; default the validation split, or all volumes.
        roi_size: window for networks that are not predictors yet; default the network's own (an attribute
            ``roi_size``), else the dataset's, else what the volumes need.
        num_classes: needed with bare volumes, whose labels may lack the last classes.
        bounds: ``(low, high)``, the intensities the networks were trained on; bare images lie between them too. Budgets
            are shares of ``high - low``. None for networks and images in [0, 1]. For networks with a mean and a standard
            deviation see :class:`~robustvox.models.Normalized`.
        spacing_mm: sides of a voxel, for cases that do not tell theirs.
        keys: of image and label in a case that is a dictionary.
        multilabel: names of labels that may overlap: the networks return one logit per label, a sigmoid each, and bare
            labels are ``(K, *spatial)`` of 0 and 1. See :class:`~robustvox.models.MultiLabel`.
        transfer: score every model on every other's volumes too.
        protocol: a name of :data:`~robustvox.benchmark.specs.protocols.PROTOCOLS` or a variant of one. Attack objects run
            as they are; `load_attack("pgd", PROTOCOLS["bmvc2024"]).attack` is one with a protocol's defaults.
        seed: of all noise.
        device: where networks run. On a GPU cases that one window holds are attacked together, each with the numbers
            it has alone up to rounding.
        store: folder that keeps records, so that an interrupted call continues; default none is kept.
        match: a reference attack; all other attacks are scaled, per case, to its distortion, see
            :class:`~robustvox.benchmark.craft.matched.Matched`.
        match_on: the distortion that is equated, ``"l2"`` or ``"ssim"``.
        progress: True for a bar with the case, attack and step in work and the time left, or a function that is called
            with a :class:`~robustvox.benchmark.harness.watching.Standing` after every volume.

    Returns:
        An :class:`~robustvox.benchmark.show.evaluation.Evaluation`: ``.table`` has one row per surrogate, target and attack,
        columns as in ``results/<dataset>/white_box.csv``, ``.per_case`` and ``.per_class`` have what it is the mean of, and
        ``.plot()`` draws it. Cases that failed are counted in ``failed``; each is told with its reason as a warning, and
        all reasons are in ``.failures``.

    Raises:
        ValueError: no model, attack or case, a missing ``num_classes``, an attack that cannot be
            matched, a volume that cannot be used, ids that are not unique, or that every case failed.
    """
    _require(models, nn.Module, "models")
    _require(attacks, Attack, "attacks")
    chosen = find_protocol(protocol)
    window = _window(roi_size)
    reading = Reading(
        bounds=_bounds(bounds), spacing_mm=spacing_mm, keys=keys, labels=len(_labels(multilabel, num_classes))
    )
    dataset = _dataset(data, num_classes, window, reading, tuple(multilabel or ()))
    chosen_attacks = _named(attacks)
    if match is not None:
        chosen_attacks = match_all(chosen_attacks, _reference(match, attacks), match_on)
    if not (models and chosen_attacks and _cases(dataset, cases)):
        raise ValueError("expected at least one model, one attack and one case, got none of one of them")
    with _untouched(models.values()):
        named = []
        for name, model in models.items():
            predictor, sha256 = _predictor(name, _adapted(model, reading), dataset, window, chosen)
            named.append(NamedModel(name, sha256, predictor.to(device).eval()))
        plan = Plan(
            dataset=dataset,
            cases=_cases(dataset, cases),
            surrogates=named,
            targets=named,
            attacks=chosen_attacks,
            protocol=chosen,
            seed=seed,
            device=device,
            white_box=not transfer,
        )
        try:
            events, records = _run(plan, store, progress)
        finally:
            _forget_graphs(named)
    failures = tuple(dict.fromkeys(_reason(e) for e in events if e.failed))
    if events and all(event.failed for event in events):
        raise ValueError(f"every case failed: {'; '.join(failures)}")
    for failure in failures:
        warnings.warn(failure, UserWarning, stacklevel=2)
    return evaluation_of(records, failures)


def _run(plan: Plan, store: Path | None, progress: bool | Listener) -> tuple[list[Event], Records]:
    """The events of a plan, and all that its folder holds afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(store) if store is not None else Path(scratch)
        with RecordStore(root) as records_store, exact_float32():
            provenance = records_store.provenance({"protocol": plan.protocol.name})
            events = []
            with watched(plan, progress) as seen:
                bench, tally = Bench(plan, case_batch="auto"), seen.outlook.tally
                for event in execute(bench, records_store, provenance, tally=tally):
                    events.append(event)
                    seen.finish(event)
        return events, load_records(root)


def _forget_graphs(models: Iterable[NamedModel]) -> None:
    """Recorded graphs hold memory of the device that was computed on."""
    for model in models:
        for module in model.predictor.modules():
            if isinstance(module, SlidingWindow):
                module.graphs.forget()


@contextmanager
def _untouched(models: Iterable[nn.Module]) -> Iterator[None]:
    """Give networks back in the mode and on the device they came with, whatever happens."""
    models = list(models)
    modes = [(module, module.training) for model in models for module in model.modules()]
    devices = [{tensor.device for tensor in (*model.parameters(), *model.buffers())} for model in models]
    try:
        yield
    finally:
        for model, where in zip(models, devices, strict=True):
            # Of a network on several devices nothing was moved that could be moved back as a whole.
            if len(where) == 1:
                model.to(device=next(iter(where)))
        for module, training in modes:
            module.training = training


def _bounds(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"expected bounds as two numbers (low, high) with low < high, got {bounds!r}")
    return low, high


def _labels(multilabel: Sequence[str] | None, num_classes: int | None) -> Sequence[str]:
    if multilabel is None:
        return ()
    if isinstance(multilabel, str) or not 1 <= len(set(multilabel)) == len(multilabel) <= MOST_LABELS:
        raise ValueError(
            f"expected multilabel as 1 to {MOST_LABELS} different names of labels, got {multilabel!r}; evaluate more in groups"
        )
    if num_classes is not None:
        raise ValueError(
            "expected either num_classes or multilabel, got both; overlapping labels have no classes"
        )
    return multilabel


def _adapted(model: nn.Module, reading: Reading) -> nn.Module:
    """A network for images in [0, 1] that returns classes."""
    if reading.bounds is None and not reading.labels:
        return model
    if isinstance(model, CasePredictor):
        raise ValueError(
            "expected bounds and multilabel for networks of your own, got a model that reads files itself"
        )
    if isinstance(model, SlidingWindow):
        adapted = copy.copy(model)
        adapted._modules = dict(model._modules)
        adapted.configure(network=_adapted(model.network, reading))
        return adapted
    if reading.bounds is not None:
        model = Normalized.from_bounds(model, *reading.bounds)
    return MultiLabel(model, reading.labels) if reading.labels else model


def _require(named: Mapping[str, object], kind: type, what: str) -> None:
    """Names and objects of one kind.

    Raises:
        ValueError: another kind, or no names.
    """
    if not isinstance(named, Mapping):
        raise ValueError(
            f"expected {what} by name, {{'mine': ...}}, got {type(named).__name__}; give each one a name"
        )
    for name, value in named.items():
        if not isinstance(value, kind):
            found = f"the class {value.__name__}" if isinstance(value, type) else repr(value)[:80]
            raise ValueError(
                f"expected {what} to be objects of {kind.__module__}.{kind.__name__}, got {found} as {name}; build it first"
            )


def _window(roi_size: Sequence[int] | int | None) -> tuple[int, ...] | None:
    """The window that was asked for; one number means all three sides."""
    if roi_size is None:
        return None
    return read_window(roi_size, "roi_size", len(roi_size) if isinstance(roi_size, Sequence) else 3)


def _reason(event: Event) -> str:
    """One line for a job that failed."""
    job = event.job
    models = ", ".join(dict.fromkeys(target.name for target in job.targets))
    what = (
        f"{job.attack.spec} on {job.surrogate.name}" if job.attack and job.surrogate else f"clean on {models}"
    )
    return f"{job.case}, {what}: {event.error}"


def _dataset(
    data: Any,
    num_classes: int | None,
    roi_size: Sequence[int] | None,
    reading: Reading,
    labels: tuple[str, ...],
) -> Dataset:
    if isinstance(data, Dataset):
        if labels:
            raise ValueError(
                "expected bare cases with multilabel, got a dataset, whose labels do not overlap"
            )
        return data
    return _bare(read_given(data, reading), num_classes, roi_size, labels)


def _cases(dataset: Dataset, cases: Sequence[str] | str | None) -> tuple[str, ...]:
    if cases is None:
        return tuple(dataset.splits["validation"])
    return (cases,) if isinstance(cases, str) else tuple(dict.fromkeys(cases))


def _predictor(
    name: str, model: nn.Module, dataset: Dataset, roi_size: Sequence[int] | None, protocol: Protocol
) -> tuple[nn.Module, str]:
    """The whole-volume predictor of a network and its identity, with the window where nobody declares that.

    A predictor is used as it is. The window of a network is the one asked for, its own (an attribute ``roi_size``), the
    dataset's, or what the volumes need.
    """
    sha256 = state_sha256(model)
    if isinstance(model, SlidingWindow | CasePredictor):
        return model, sha256
    choice = choose_window(dataset, roi_size if roi_size is not None else own_window(model))
    classes = {"in_channels": dataset.in_channels, "num_classes": len(dataset.class_names)}

    def takes(size: tuple[int, ...]) -> None:
        # What was asked for or declared is tried by the attack itself, which says what went wrong.
        if not choice.fixed:
            check_window(model, name, **classes, roi_size=size)

    _, window = with_window(choice, takes, ValueError)
    predictor = SlidingWindow(
        model, window, protocol.overlap, "auto", protocol.mode, padding=protocol.padding
    )
    identity = sha256 if choice.fixed else hashlib.sha256(repr((sha256, window)).encode()).hexdigest()
    return predictor, identity


def _named(attacks: Mapping[str, Attack]) -> list[NamedAttack]:
    return [NamedAttack(attack_spec(name, attack), attack) for name, attack in attacks.items()]


def _reference(match: Attack, attacks: Mapping[str, Attack]) -> NamedAttack:
    """The reference under the name it has among the attacks, or else in the registry."""
    kind = type(match)
    known = [name for name, attack in attacks.items() if attack == match]
    known += [name for name, registered in ATTACKS.items() if registered is kind]
    return _named({(known or [f"{kind.__module__}:{kind.__qualname__}"])[0]: match})[0]


@dataclass(frozen=True)
class _BareVolumes:
    """Volumes somebody already has, as a dataset."""

    volumes: Mapping[str, Volume]
    class_names: tuple[str, ...]
    roi_size: tuple[int, ...]
    overlapping: tuple[str, ...] = ()
    name: str = "volumes"
    nsd_tolerance_mm: float = 1.0

    @property
    def in_channels(self) -> int:
        return next(iter(self.volumes.values())).image.shape[0]

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        return {"train": (), "validation": tuple(self.volumes)}

    @property
    def provenance(self) -> Mapping[str, str]:
        return {"source": "given in memory"}

    def load(self, case_id: str) -> Volume:
        if case_id not in self.volumes:
            raise CaseError(case_id, "a given volume", "no such id", f"known: {', '.join(self.volumes)}")
        return self.volumes[case_id]


def _bare(
    volumes: Sequence[Volume],
    num_classes: int | None,
    roi_size: Sequence[int] | None,
    labels: tuple[str, ...] = (),
) -> _BareVolumes:
    if not volumes:
        raise ValueError("expected at least one volume, got none")
    classes = 2 ** len(labels) if labels else num_classes
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(
            f"expected num_classes of at least 2 with bare volumes, whose labels may lack the last classes, got "
            f"{num_classes!r}; count the background too"
        )
    # Rows name labels, or classes; the classes of overlapping labels are sets of them.
    several = (f"set_{k}" for k in range(len(labels) + 1, classes))
    names = ("background", *labels, *(several if labels else (f"class_{k}" for k in range(1, classes))))
    checked = check_volumes(volumes, classes)
    channels = sorted({len(volume.image) for volume in checked})
    if len(channels) > 1:
        raise ValueError(f"expected volumes of one number of channels, got {channels}; evaluate them apart")
    return _BareVolumes(
        MappingProxyType({v.id: v for v in checked}), names, tuple(roi_size or ()), overlapping=labels
    )
