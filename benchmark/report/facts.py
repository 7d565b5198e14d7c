"""What a report says, as plain text, numbers and tables; the template only arranges it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..harness.bench import Bench
from ..harness.execute import Event, Status
from ..plan.attacks import short_name
from ..records.outcomes import load_flags, load_outcomes
from ..records.reading import Frame, Records
from ..records.states import load_states
from ..show.labels import is_noise
from ..show.tables import results as rows_of
from ..specs.durations import duration
from ..specs.spec import CLEAN
from . import asked, tables, trust
from .chart import MOST, TICKS, chart
from .compared import compared
from .evidence import Evidence, comparison, evidence
from .links import viewers
from .reading import reading_of
from .verdict import judge
from .worst import mean_sizes, worst_organs

if TYPE_CHECKING:
    from ..harness.compute import Scored
    from .gallery import FirstCase


_LISTED = 4  # jobs that are named where many failed for one reason


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Args:
        bench: holds the plan, what was crossed.
        events: what happened to every job.
        records: those of this run's units.
        environment: what :func:`robustvox.benchmark.records.provenance.describe` found.
        provenance: id of the environment beside the records.
        out: folder of all results.
        started: seconds since the epoch.
        seconds: how long it took.
        gallery: holds the case to show.
    """

    bench: Bench
    events: Sequence[Event]
    records: Records
    environment: Mapping[str, Any]
    provenance: str
    out: Path
    started: float
    seconds: float
    gallery: FirstCase

    @cached_property
    def pair(self) -> tuple[Scored, Scored] | None:
        """The clean and the attacked prediction to show, where the run knows both; viewer and slices both ask."""
        attacked = self.gallery.attacked
        if attacked is None or attacked.job.attack is None or attacked.job.surrogate is None:
            return None
        costs: Frame = self.records.costs
        mine = costs[
            (costs["case"] == attacked.job.case)
            & (costs["attack"] == attacked.job.attack.spec)
            & (costs["surrogate_sha256"] == attacked.job.surrogate.sha256)
        ]
        if not len(mine):
            return None
        # A volume is crafted once for all targets; forwards and seconds are those of crafting.
        crafting = mine.iloc[0]
        clean = self.gallery.clean(self.bench, crafting["seconds"] / max(crafting["forwards"], 1))
        return None if clean is None else (clean, attacked)

    @property
    def folder(self) -> Path:
        """``<out>/<dataset>``."""
        return self.out / self.bench.plan.dataset.name

    @property
    def reports(self) -> Path:
        """Where reports of the dataset lie."""
        return self.folder / "reports"

    @property
    def stem(self) -> str:
        """How the names of its files begin: when it began, and in which environment."""
        return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(self.started))}-{self.provenance[:8]}"


def facts(run: Run) -> dict[str, Any]:
    """Everything the template needs but the pictures."""
    plan = run.bench.plan
    flags, states = load_flags(run.folder / "checks"), load_states(run.folder / "checks")
    found = evidence(run.records, flags, states)
    counts = {status.value: sum(e.status is status for e in run.events) for status in Status}
    return {
        "title": asked.title(plan),
        "dataset": plan.dataset.name,
        "protocol": plan.protocol.name,
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.started)),
        "counts": counts,
        "duration": duration(run.seconds),
        "controls": sum(is_noise(attack.spec) for attack in plan.attacks),
        "models": [
            (f"{m.label} ({m.name})" if m.label else m.name, m.sha256 or "unknown") for m in plan.models
        ],
        "readings": [(m.shown, lines) for m in plan.models if (lines := reading_of(run.bench, m))],
        "cases": list(plan.cases),
        "seed": plan.seed,
        **_asked(run),
        **_answered(run, found),
        "tables": _tables(run, flags, states),
        "lines": chart(found),
        "ticks": TICKS,
        "most": MOST,
        "failures": failures(run.events),
        **_trust(run, found),
        "settings": _settings(run),
        "viewers": viewers(run.reports, run.stem),
        "view_command": _view_command(run, found),
    }


def _asked(run: Run) -> dict[str, Any]:
    plan, command = run.bench.plan, asked.as_called(str(run.environment["command"]))
    costs: Any = run.records.costs[run.records.costs["attack"] != CLEAN]
    linf = costs.groupby("attack")["linf"].max().dropna().to_dict()
    provenance = sorted((str(k).replace("_", " "), str(v)) for k, v in plan.dataset.provenance.items())
    return {
        "command": command,
        "has_folders": asked.has_folders(command),
        "attacks": asked.attacks_table(plan, linf, asked.common_window(run.bench.windows.values())),
        "data": provenance,
        "licences": [(m.shown, m.licence) for m in plan.models if m.licence],
    }


def _answered(run: Run, found: Sequence[Evidence]) -> dict[str, Any]:
    sizes = mean_sizes(run.bench.organs_ml)
    return {
        "verdicts": [judge(model) for model in found],
        "compared": compared(found, comparison(run.records)) if len(found) > 1 else "",
        "worst": [worst for model in found if (worst := worst_organs(model, sizes, _unit(run))) is not None],
        "sizes_known": bool(sizes),
        "drops_lost": run.bench.plan.protocol.drop_lost,
    }


def _tables(run: Run, flags: Frame, states: Any) -> list[dict[str, Any]]:
    kinds = zip(("White-box", "Transfer"), rows_of.both(run.records, flags, states), strict=True)
    return [
        {
            "title": title,
            "results": tables.results(table, f"{title} results", _unit(run)),
            "measured": tables.measured(table, f"{title}: change and cost"),
        }
        for title, table in kinds
        if len(table)
    ]


def _view_command(run: Run, found: Sequence[Evidence]) -> str:
    """To look through the case that the strongest attack of all hurt most."""
    plan, command = run.bench.plan, asked.as_called(str(run.environment["command"]))
    known = {model.shown: model.name for model in plan.surrogates}
    rows = [(row, model.model) for model in found if model.white_box for row in model.attacks]
    rows = [(row, known[model]) for row, model in rows if model in known]
    if not rows:
        return ""
    row, model = min(rows, key=lambda entry: entry[0].dice)
    case = min(row.by_case, key=lambda case: (row.by_case[case], case))
    return asked.view_command(command, plan, model, case, row.attack)


def _unit(run: Run) -> str:
    """Of HD95 under the run's protocol."""
    return "voxels" if run.bench.plan.protocol.voxel_hd95 else "mm"


def _trust(run: Run, found: Sequence[Evidence]) -> dict[str, Any]:
    plan, command = run.bench.plan, asked.as_called(str(run.environment["command"]))
    suite, lacking = asked.untried(
        plan.protocol.name,
        [*(attack.spec for attack in plan.attacks), *(saved.note.attack for saved in plan.saved)],
    )
    texts = [row.text for row in lacking]
    return {
        "states": trust.states_table(found),
        "groups": trust.check_groups(load_outcomes(run.folder / "checks"), plan),
        "check_command": asked.check_command(command, plan),
        "sample": trust.sample(found, plan),
        "computed": trust.computed(run.environment, plan.device),
        "flags": trust.flags_explained(found),
        "suite": suite,
        "untried": [row.label for row in lacking],
        "untried_command": asked.with_attacks(command, plan, texts) if texts and plan.surrogates else "",
        "transfer": not plan.white_box or bool(plan.saved),
    }


def _settings(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the provenance beside the records says, and the rules that its protocol's name stands for."""
    plan, known = run.bench.plan, dict(run.environment)
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.started))
    groups: dict[str, Any] = {
        "run": {
            "started": f"{started}, took {duration(run.seconds)}",
            "id beside the records": run.provenance,
            "seed": f"{plan.seed}, mixed with dataset, case and attack",
            "device of the networks": plan.device,
            **{
                name: value
                for name, value in known.items()
                if not isinstance(value, Mapping) and name != "seed"
            },
        },
        **{str(name): value for name, value in known.items() if isinstance(value, Mapping)},
        "protocol": asdict(plan.protocol),
        **{f"attack {spec}": values for spec, values in asked.attack_settings(plan).items()},
    }
    return asked.settings(groups)


def failures(events: Sequence[Event]) -> tables.Table | None:
    """What failed and why, in the order of the run; jobs of one case with one reason together."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for event in events:
        if event.failed:
            job = event.job
            saved = f"saved volume {job.saved.path.name}" if job.saved else "clean image"
            attack = short_name(job.attack.spec) if job.attack else saved
            models = [job.surrogate.shown] if job.surrogate else [target.shown for target in job.targets]
            grouped.setdefault((job.case, event.error), []).append(f"{attack} on {', '.join(models)}")
    if not grouped:
        return None
    return tables.plain(
        "Failed cases",
        ("case", "jobs", "reason"),
        (
            (
                case,
                "; ".join(jobs[:_LISTED]) + (f"; {len(jobs) - _LISTED} more" if len(jobs) > _LISTED else ""),
                reason,
            )
            for (case, reason), jobs in grouped.items()
        ),
    )
