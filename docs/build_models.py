"""Write one page per architecture, their index, and models/facts.json.

python docs/build_models.py            # pages, from docstrings, facts and checkpoint headers
python docs/build_models.py --measure  # count parameters and operations again first

Nothing is described twice: text comes from the docstrings, cost from the networks, model cards from the headers of
the zoo's checkpoints. Same code and zoo, same bytes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from build_attacks import write

from robustvox.models import CATALOG, MODELS, ModelCard, build_model, read_card
from robustvox.models.complexity import FACTS, facts, measure

DOCS = Path(__file__).resolve().parent
FOLDER, ZOO = DOCS / "models", DOCS.parent / "models" / "zoo"
COMMAND = "python docs/build_models.py"
SETTINGS = {"small": ((48, 64, 48), 3), "paper": ((96, 96, 96), 14)}


def measure_all() -> dict[str, dict[str, Any]]:
    """Cost of every architecture in both sizes, counted on the meta device."""
    found: dict[str, dict[str, Any]] = {}
    for name in MODELS:
        found[name] = {size: measure_one(name, size) for size in SETTINGS}
    return found


def measure_one(name: str, size: str) -> dict[str, Any]:
    """Cost of one architecture in one size, as it stands in models/facts.json."""
    roi_size, num_classes = SETTINGS[size]
    network = build_model(name, in_channels=1, num_classes=num_classes, roi_size=roi_size, size=size)
    cost = measure(network, 1, roi_size)
    return {
        "parameters": cost.parameters,
        "flops": cost.flops,
        "scan_flops": cost.scan_flops,
        "roi_size": list(roi_size),
        "num_classes": num_classes,
    }


def description(name: str) -> dict[str, str]:
    """First paragraphs, ``Source`` and ``Differs from the source`` of the docstring that describes a network."""
    text = inspect.cleandoc(_documented(name).__doc__ or "")
    parts = re.split(r"^(Source|Differs from the source|Args|Shape|Raises|Example):", text, flags=re.M)
    sections = {"text": parts[0].strip()}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        sections[title] = " ".join(body.split())
    return sections


def _documented(name: str) -> Any:
    architectures = importlib.import_module("robustvox.models.architectures")
    if hasattr(architectures, name):
        return getattr(architectures, name)
    roi_size, num_classes = SETTINGS["small"]
    return type(build_model(name, in_channels=1, num_classes=num_classes, roi_size=roi_size, size="small"))


def pages() -> dict[str, str]:
    """File name to text, the index included."""
    return {"index.md": index_page(), **{f"{name}.md": page(name) for name in MODELS}}


def cards(name: str) -> list[tuple[Path, ModelCard]]:
    """The zoo's checkpoints of an architecture, natural and defended."""
    files = [*ZOO.glob(f"*/{name}.safetensors"), *ZOO.glob(f"*/{name}.*.safetensors")]
    return [(path, read_card(path)) for path in sorted(files)]


def page(name: str) -> str:
    """One architecture: what it is, what it costs, its model cards."""
    told = description(name)
    lines = [
        f"<!-- Written by `{COMMAND}` from docstrings and checkpoint headers: edit those. -->",
        f"# `{name}`",
        _paragraphs(told["text"]),
        "**Source.** " + _escape(told.get("Source", CATALOG[name].source)),
    ]
    if "Differs from the source" in told:
        differs = told["Differs from the source"]
        lines.append("**Differs from the source.** " + _escape(differs[0].upper() + differs[1:]))
    lines += ["## Cost", "\n".join(_cost_table(name))]
    for path, card in cards(name):
        defence = f", {card.defence}" if card.defence else ""
        lines += [f"## Model card: {card.dataset}{defence}", "\n".join(_card_table(path, card))]
    if not cards(name):
        lines += [
            "## Model card",
            f"No checkpoint in the zoo: `python -m benchmark train --model {name} --dataset NAME`.",
        ]
    return "\n\n".join(lines) + "\n"


def _paragraphs(text: str) -> str:
    """Docstring text with its displayed formulas as code blocks."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        blocks.append(
            f"```\n{inspect.cleandoc(block)}\n```" if block[0] == " " else _escape(" ".join(block.split()))
        )
    return "\n\n".join(blocks)


def _escape(text: str) -> str:
    return re.sub(r":class:`(\w+)`", r"`\1`", text.replace("``", "`")).replace("<", "&lt;")


def _cost_table(name: str) -> list[str]:
    rows = [
        "| size | parameters | GFLOPs | of them scan | window | classes |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for size, cost in facts()[name].items():
        rows.append(
            f"| `{size}` | {cost['parameters']:,} | {cost['flops'] / 1e9:.1f} | {cost['scan_flops'] / 1e9:.2f} | "
            f"{_window(cost['roi_size'])} | {cost['num_classes']} |"
        )
    return [*rows, "", "One forward on one window; a multiply-add counts as two operations."]


def _card_table(path: Path, card: ModelCard) -> list[str]:
    low, high = card.validation_interval or (float("nan"), float("nan"))
    plain = {key: value for key, value in card.recipe.items() if key != "selected"}
    recipe = ", ".join(f"{key} {value}" for key, value in sorted(plain.items()))
    arguments = ", ".join(f"{key}={value}" for key, value in sorted(card.arguments.items()))
    rows = {
        "file": f"`models/zoo/{path.parent.name}/{path.name}`, {path.stat().st_size / 1e6:.1f} MB, half precision",
        "architecture": f"`{card.architecture}` ({arguments}), {card.source}",
        "parameters": f"{card.parameters:,}" if card.parameters else "unknown",
        "operations": f"{card.flops / 1e9:.1f} GFLOPs per window" if card.flops else "unknown",
        "data": f"{card.dataset}: {card.data.get('source', 'unknown')}",
        "licence of the data": str(card.data.get("licence", "none needed: generated volumes")),
        "split": str(card.data.get("split", "seeds of the generator, disjoint between splits")),
        "intensities": card.window,
        "window": f"{_window(card.roi_size)} voxels, {card.in_channels} channel(s)",
        "classes": ", ".join(card.class_names),
        "recipe": recipe,
        **_kept(card),
        "seed": str(card.seed),
        "clean Dice": f"{card.validation_dice:.3f} (95% interval {low:.3f}-{high:.3f}), "
        f"{card.validation_cases} validation cases",
        "trained with": f"robustvox {card.code_version}",
        "meant for": "measuring attacks in the benchmark; not for clinical use",
    }
    return ["| card | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())]


def _kept(card: ModelCard) -> dict[str, str]:
    """Which weights of a training with a defence were kept, and what they hold out; nothing for a natural one."""
    if "selected" not in card.recipe:
        return {}
    look = card.recipe["selected"]
    found = f"Dice {look['clean']:.3f} clean, {look['fgsm']:.3f} FGSM, {look['pgd']:.3f} PGD-10 on the cases watched"
    return {"weights kept": f"{look['rule']}, step {look['step']}: {found}"}


def _window(roi_size: Any) -> str:
    return " x ".join(map(str, roi_size))


def _zoo_cell(card: ModelCard) -> str:
    mark = f"@{card.defence}" if card.defence else ""
    return f"{card.dataset}{mark} {card.validation_dice:.3f}"


def index_page() -> str:
    """The table of all architectures."""
    rows = [
        "| name | what it is | source | paper: parameters, GFLOPs | small: parameters, GFLOPs | zoo: clean Dice |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for name in MODELS:
        cost = {
            size: f"{c['parameters'] / 1e6:.2f} M, {c['flops'] / 1e9:.1f}"
            for size, c in facts()[name].items()
        }
        zoo = ", ".join(_zoo_cell(card) for _, card in cards(name)) or "none"
        rows.append(
            f"| [`{name}`]({name}.md) | {CATALOG[name].summary} | {CATALOG[name].source} | {cost['paper']} | {cost['small']} | {zoo} |"
        )
    lines = [
        f"<!-- Written by `{COMMAND}` from docstrings and checkpoint headers: edit those. -->",
        "# Models",
        "`--model NAME` takes these names; `--model NAME:size=paper` the published configuration. Everything is "
        "PyTorch alone and runs on a CPU: the selective scan of the Mamba networks is "
        "`robustvox.models.mamba.selective_scan`.",
        "\n".join(rows),
        "Operations are those of one forward on one window: 96 x 96 x 96 in `paper` size with 14 classes, "
        "48 x 64 x 48 in `small` size with 3; a multiply-add counts as two.",
    ]
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--measure" in sys.argv[1:]:
        FACTS.write_text(json.dumps(measure_all(), indent=1) + "\n", encoding="utf-8", newline="\n")
        facts.cache_clear()
    write(FOLDER, pages())
