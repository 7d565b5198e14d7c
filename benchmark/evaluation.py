"""The harness from Python, on bare objects: nothing registered, nothing written."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd
from torch import nn

from robustvox.attacks import ATTACKS, Attack
from robustvox.datasets import CaseError, Dataset, Volume
from robustvox.datasets.bare import check_volumes
from robustvox.models import SlidingWindow
from robustvox.models.bring.foreign import check_window
from robustvox.models.case import CasePredictor
from robustvox.models.checkpoint import state_sha256
from robustvox.models.precision import exact_float32

from .craft.named import NamedAttack, NamedModel
from .harness.bench import Bench
from .harness.execute import Event, execute
from .plan.attacks import attack_spec, match_all
from .plan.bring import own_window
from .plan.plan import Plan
from .plan.windows import choose_window, read_window, with_window
from .records.reading import load_records
from .records.store import RecordStore
from .show.tables import results as tables
from .specs.protocols import DEFAULT_PROTOCOL, Protocol, find_protocol


def evaluate(
    models: Mapping[str, nn.Module],
    attacks: Mapping[str, Attack],
    data: Dataset | Iterable[Volume],
    *,
    cases: Sequence[str] | None = None,
    roi_size: Sequence[int] | int | None = None,
    num_classes: int | None = None,
    transfer: bool = False,
    protocol: str = DEFAULT_PROTOCOL,
    seed: int = 0,
    device: str = "cpu",
    store: Path | None = None,
    match: Attack | None = None,
    match_on: str = "l2",
) -> pd.DataFrame:
    """Attack every model with every attack and return the table of results.

    Args:
        models: name to network ``(B, C, *roi)`` -> logits ``(B, K, *roi)``, or a whole-volume predictor
            (:class:`~robustvox.models.SlidingWindow`, or the predictor of :func:`~robustvox.models.bring.open_model`),
            which is used as it is.
        attacks: name to attack object.
        data: a dataset, or volumes; those are converted or refused by
            :func:`~robustvox.datasets.bare.check_volume`.
        cases: which case ids; default the validation split, or all volumes.
        roi_size: window for networks that are not predictors yet; default the network's own (an attribute
            ``roi_size``), else the dataset's, else what the volumes need.
        num_classes: needed with bare volumes, whose labels may lack the last classes.
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

    Returns:
        One row per surrogate, target and attack, columns as in ``results/<dataset>/white_box.csv``. Cases that
        failed are counted in ``failed``; each is told with its reason as a warning, and all reasons are in
        ``attrs["failures"]`` of the table.

    Raises:
        ValueError: no model, attack or case, a missing ``num_classes``, an attack that cannot be
            matched, a volume that cannot be used, ids that are not unique, or that every case failed.
    """
    _require(models, nn.Module, "models")
    _require(attacks, Attack, "attacks")
    chosen = find_protocol(protocol)
    window = _window(roi_size)
    dataset = _dataset(data, num_classes, window)
    chosen_attacks = _named(attacks)
    if match is not None:
        chosen_attacks = match_all(chosen_attacks, _reference(match, attacks), match_on)
    named = []
    for name, model in models.items():
        predictor, sha256 = _predictor(name, model, dataset, window, chosen)
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
    if not (plan.surrogates and plan.attacks and plan.cases):
        raise ValueError("expected at least one model, one attack and one case, got none of one of them")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(store) if store is not None else Path(scratch)
        with RecordStore(root) as records_store, exact_float32():
            provenance = records_store.provenance({"protocol": chosen.name})
            events = list(execute(Bench(plan, case_batch="auto"), records_store, provenance))
        records = load_records(root)
    failures = tuple(dict.fromkeys(_reason(e) for e in events if e.failed))
    if events and all(event.failed for event in events):
        raise ValueError(f"every case failed: {'; '.join(failures)}")
    for failure in failures:
        warnings.warn(failure, UserWarning, stacklevel=2)
    table = pd.concat(tables.both(records), ignore_index=True)
    table.attrs["failures"] = failures
    return table


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
    data: Dataset | Iterable[Volume], num_classes: int | None, roi_size: Sequence[int] | None
) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return _bare((data,) if isinstance(data, Volume) else tuple(data), num_classes, roi_size)


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


def _bare(volumes: Sequence[Volume], num_classes: int | None, roi_size: Sequence[int] | None) -> _BareVolumes:
    if not volumes:
        raise ValueError("expected at least one volume, got none")
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"expected num_classes of at least 2 with bare volumes, whose labels may lack the last classes, got "
            f"{num_classes!r}; count the background too"
        )
    names = ("background", *(f"class_{k}" for k in range(1, num_classes)))
    checked = check_volumes(volumes, num_classes)
    channels = sorted({len(volume.image) for volume in checked})
    if len(channels) > 1:
        raise ValueError(f"expected volumes of one number of channels, got {channels}; evaluate them apart")
    return _BareVolumes(MappingProxyType({v.id: v for v in checked}), names, tuple(roi_size or ()))
