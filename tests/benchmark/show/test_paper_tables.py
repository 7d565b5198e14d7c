"""Tables for papers: best and ties, labels, escaping, the README excerpt, and what the check of it all finds."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from scipy.stats import permutation_test

from robustvox.benchmark.metrics.statistics import holm, sign_flip
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.records.coverage import record_folders, row_problems
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import RecordsError, Unit
from robustvox.benchmark.show import excerpt as excerpts
from robustvox.benchmark.show.files import check, render, write
from robustvox.benchmark.show.tables import markup, views
from robustvox.benchmark.show.tables.best import BEST, TIED, best_models
from robustvox.benchmark.show.tables.results import white_box
from robustvox.benchmark.show.tables.summary import Summary, labels

from ..first_form import rows_in

REPOSITORY = Path(__file__).resolve().parents[3]
COST: dict[str, Any] = {"linf": 0.03, "l2": 1.0, "psnr": 40.0, "ssim": 1.0, "forwards": 1, "backwards": 0}
COST |= {"seconds": 1.0, "flags": [], "provenance": "p"}
SPEC = "pgd:eps=8/255,loss=dice,steps=20"


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def unit(case: int, attack: str, model: str, target: str | None = None, dataset: str = "hippocampus") -> Unit:
    return Unit(
        dataset=dataset,
        case=f"c{case:02d}",
        attack=attack,
        surrogate=model,
        surrogate_sha256=model * 4,
        target=target or model,
        target_sha256=(target or model) * 4,
        protocol="robustvox-1",
        seed=0,
        data_sha256="",
    )


def fill(
    results: Path, dice: dict[str, list[float]], attack: str = SPEC, dataset: str = "hippocampus"
) -> None:
    """One class, a clean row and an attacked row per case."""
    score = {"class_id": 1, "class_name": "a", "hd95_mm": 1.0, "nsd": 0.9, "status": "ok"}
    with RecordStore(results / dataset / "records") as store:
        for model, values in dice.items():
            for case, value in enumerate(values):
                store.append(unit(case, "none", model, dataset=dataset), [score | {"dice": 0.95}], COST)
                store.append(unit(case, attack, model, dataset=dataset), [score | {"dice": value}], COST)


def per_case(dice: dict[str, list[float]]) -> DataFrame:
    rows = [
        {
            "dataset": "d",
            "protocol": "p",
            "surrogate": m,
            "target": m,
            "attack": "a",
            "case": f"{i}",
            "dice": v,
        }
        for m, values in dice.items()
        for i, v in enumerate(values)
    ]
    return DataFrame(rows)


# --- best and ties -----------------------------------------------------------------------------


def test_marks_against_scipy() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(10) * 0.2 + 0.6
    dice = {"best": base + 0.02, "near": base + rng.normal(0.018, 0.02, 10), "far": base - 0.1}
    marks = best_models(per_case({name: list(values) for name, values in dice.items()}))
    (top,) = [key[2] for key, mark in marks.items() if mark == BEST]
    others = [name for name in sorted(dice) if name != top]
    p_values = [
        permutation_test(
            (dice[top] - dice[name],), np.mean, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        for name in others
    ]
    expected = {name for name, p in zip(others, holm(p_values), strict=True) if p >= 0.05}
    assert {key[2] for key, mark in marks.items() if mark == TIED} == expected
    assert top == max(dice, key=lambda name: dice[name].mean())
    assert expected == {"near", "best"} - {top}


def test_few_cases_cannot_be_told_apart_and_one_model_is_no_contest() -> None:
    few = {"a": [0.9, 0.9, 0.9, 0.9, 0.9], "b": [0.1, 0.1, 0.1, 0.1, 0.1]}
    assert sorted(best_models(per_case(few)).values()) == [BEST, TIED]
    assert best_models(per_case({"a": [0.5] * 9})) == {}
    assert best_models(per_case({"a": [float("nan")] * 9, "b": [0.5] * 9})) == {}


def test_sign_flip_agrees_with_every_pattern() -> None:
    values = np.array([0.3, -0.1, 0.25, 0.4])
    patterns = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    extreme = np.abs((patterns * values).mean(axis=1)) >= abs(values.mean()) - 1e-12
    assert sign_flip(values) == extreme.mean()


def test_bold_and_dagger_in_both_formats(tmp_path: Path) -> None:
    fill(tmp_path, {"good": [0.8] * 9, "like": [0.79, 0.81] * 4 + [0.79], "weak": [0.5] * 9})
    files = {path.name: text for path, text in render(tmp_path).items()}
    lines = {line.split(" | ")[2]: line for line in files["white_box.md"].splitlines() if "| hippo" in line}
    assert "**0.800 (0.800 to 0.800)**" in lines["good"]
    assert re.search(r"0\.799 \(0\.79\d to 0\.80\d\)† ", lines["like"])
    assert "| 0.500 (0.500 to 0.500) |" in lines["weak"]
    assert files["white_box.md"].endswith(views.MARKDOWN_NOTE + "\n")
    assert r"\textbf{0.800 (0.800 to 0.800)}" in files["white_box.tex"]
    assert r"$^\dagger$ &" in files["white_box.tex"]
    assert files["white_box.tex"].endswith(f"\\end{{tabular}}\n% For the caption: {views.LATEX_NOTE}\n")
    (row,) = [line for line in files["summary.md"].splitlines() if "pgd" in line]
    assert row == (
        "| robustvox-1 | pgd eps=8/255 | **0.800 (0.800 to 0.800)** | "
        + row.split(" | ")[3]
        + " | 0.500 (0.500 to 0.500) |"
    )
    body = [line for line in files["summary.tex"].splitlines() if " & " in line]
    assert {line.count(" & ") for line in body} == {4}


def test_labels_are_short_and_never_the_same() -> None:
    specs = {
        "a:eps=1,steps=2",
        "a:eps=1,steps=3",
        "b:eps=none,rho=1",
        "b:eps=none,rho=1@l2~0.02=a:eps=1,steps=2",
    }
    found = labels(specs)
    assert found["a:eps=1,steps=2"] == "a eps=1 steps=2"
    assert found["b:eps=none,rho=1"] == "b rho=1"
    assert found["b:eps=none,rho=1@l2~0.02=a:eps=1,steps=2"] == "b rho=1 @l2~0.02=a"
    matched = {f"b:rho=1@l2~0.02=a:steps={n}" for n in (1, 2)}
    assert labels(matched) == {spec: spec for spec in matched}


# --- names that want to be more than text ------------------------------------------------------

LATEX_SPECIAL = re.compile(r"(?<!\\)[&%$#_{}~^]")


@given(st.text(max_size=40))
def test_any_name_is_text_in_latex_and_markdown(name: str) -> None:
    latex = markup.latex_text(name)
    assert "\n" not in latex
    assert "\r" not in latex
    # What is left after the commands and groups that the escaping itself writes holds nothing special.
    plain = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]|\{[][*]\}", "", latex)
    assert not set(plain) & set("\\{}$&#%_^~<>|")
    markdown = markup.markdown_text(name)
    assert not re.search(r"[<>\n\r]|(?<!\\)[|`*\[\]]", re.sub(r"\\\\", "", markdown))
    markdown.encode("utf-8")


def test_hostile_names_in_every_file(tmp_path: Path) -> None:
    names = {"<script>alert(1)</script>": [0.5] * 8, "=cmd|x": [0.6] * 8}
    fill(tmp_path, names)
    for path, text in render(tmp_path).items():
        if path.suffix in {".md", ".tex"}:
            assert not re.search(r"(?<!\\)<script>", text), path
            assert "=cmd|" not in text, path
        elif path.suffix == ".csv":
            assert "\n=cmd" not in text
            assert ",=cmd" not in text
            assert ",'=cmd|x" in text
    assert len(render(tmp_path)) >= 5


# --- the excerpt -------------------------------------------------------------------------------


def test_every_attack_of_the_excerpt_is_one_of_the_registry() -> None:
    """What stands in the first column of the second table is that attack, typed on the command line."""
    for name, wanted in excerpts.ATTACKS.items():
        spec = load_attack(name).spec
        assert excerpts.find([{"attack": spec}], wanted), name
    for wanted in excerpts.COLUMNS.values():
        spec = load_attack(wanted.replace("loss=dice,", "")).spec
        assert excerpts.find([{"attack": spec}], wanted)
        assert not excerpts.find([{"attack": f"{spec}@l2~0.02=x"}], wanted)


def test_a_row_that_has_not_converged_has_a_mark_and_the_mark_a_line() -> None:
    row = {
        "protocol": excerpts.PROTOCOL,
        "attack": excerpts.COLUMNS["PGD 8/255"],
        "checks": "failed",
        "n_cases": 12,
    }
    row |= {"dice_clean": 0.9, "dice_adv": 0.5, "dice_adv_low": 0.4, "dice_adv_high": 0.6}
    rows = [
        row | {"surrogate": "unet", "flags": "C14:warn;C6:fail"},
        row | {"surrogate": "unetr", "flags": "C6:warn"},
    ]
    text = excerpts.first_look({excerpts.DATASET: DataFrame(rows)}, {})
    unet, unetr, note = (line for line in text.splitlines()[2:] if line)
    assert "0.50 (0.40-0.60) ‡ |" in unet
    assert "0.50 (0.40-0.60) |" in unetr
    assert note.startswith("‡ Not converged")
    assert "‡" not in excerpts.first_look({excerpts.DATASET: DataFrame(rows[1:])}, {})


def test_only_a_readme_with_markers_beside_the_results_changes(tmp_path: Path) -> None:
    results = tmp_path / "results"
    fill(results, {"unet": [0.5] * 8, "mine": [0.625] * 8}, excerpts.ATTACKS["pgd"])
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n")
    write(results)
    assert readme.read_text() == "# Mine\n"
    assert check(results) == []
    readme.write_text(f"# Mine\n{excerpts.START}\nold\n{excerpts.END}\ntail\n")
    (problem,) = check(results)
    assert "README.md (committed)" in problem
    assert "-old" in problem
    write(results)
    assert "\nold\n" in readme.read_text(), "a run does not touch the README"
    own = tmp_path / "summary.md"
    own.write_text("a file of the user")
    write(results, readme=True)
    assert own.read_text() == "a file of the user"
    text = readme.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith(f"{excerpts.END}\ntail\n")
    assert "| unet | 0.95 | n/a | n/a | n/a | 0.50 (0.50-0.50) |" in text
    assert "| `pgd` | 0.50 (0.50-0.50) | 1.0 | 1.0 | 8/255 |" in text
    assert text.index("| unet |") < text.index("| mine |")
    assert check(results) == []
    readme.write_text(text.replace("0.50 (0.50-0.50) | 1.0", "0.90 (0.50-0.50) | 1.0"))
    (problem,) = check(results)
    assert "-| `pgd` | 0.90" in problem
    assert "+| `pgd` | 0.50" in problem
    readme.write_text(text + excerpts.START)
    with pytest.raises(RecordsError, match=r"found 2 and 1"):
        render(results)


# --- the check ---------------------------------------------------------------------------------


def edit(path: Path, change) -> None:
    rows = rows_in(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


@pytest.fixture
def crossed(tmp_path: Path) -> Path:
    """Two models on three cases, one of which failed for one of them, with the provenance of the run."""
    entry = {
        "protocol": "robustvox-1", "models": {"m": "m" * 4, "n": "n" * 4}, "attacks": [SPEC],
        "surrogates": ["m", "n"], "targets": ["m", "n"], "white_box": True, "cases": ["c00", "c01", "c02"], "seed": 0,
    }  # fmt: skip
    fill(tmp_path, {"m": [0.5, 0.6, 0.7], "n": [0.4, 0.5]})
    with RecordStore(tmp_path / "hippocampus" / "records") as store:
        store.provenance(entry)
        score = {"class_id": 1, "class_name": "a", "dice": 0.9, "hd95_mm": 1.0, "nsd": 0.9, "status": "ok"}
        store.append(unit(2, "none", "n"), [score], COST)
        store.fail(unit(2, SPEC, "n"), "diverged")
    write(tmp_path)
    assert check(tmp_path) == []
    return tmp_path


def test_a_dropped_failure_is_found_before_and_after_rendering_again(crossed: Path) -> None:
    path = crossed / "hippocampus" / "records" / "robustvox-1" / "n" / "pgd.jsonl"
    edit(path, lambda rows: [row for row in rows if row["kind"] != "failure"])
    problems = check(crossed)
    assert any("white_box.csv (committed)" in text and "pgd" in text for text in problems)
    write(crossed)
    (problem,) = check(crossed)
    assert str(path) in problem
    assert f"expected a row of c02, {SPEC}, n on n" in problem


def test_an_edited_identity_is_found(crossed: Path) -> None:
    path = crossed / "hippocampus" / "records" / "robustvox-1" / "n" / "pgd.jsonl"
    edit(
        path,
        lambda rows: [row | {"target_sha256": "m" * 4} if row["kind"] == "cost" else row for row in rows],
    )
    write(crossed)
    problems = check(crossed)
    assert any(
        str(path) in text and "expected the hash of the row's own identity" in text for text in problems
    )


def test_a_tampered_number_names_file_and_row(crossed: Path) -> None:
    path = crossed / "hippocampus" / "summary.md"
    path.write_text(path.read_text().replace("0.600", "0.900", 1))
    (problem,) = check(crossed)
    assert str(path) in problem
    assert "-| robustvox-1 | pgd eps=8/255 | **0.900" in problem


def test_old_provenance_without_cases_finds_a_hole(tmp_path: Path) -> None:
    """Entries of 0.1.0 before this check list no cases: the groups of one run are compared with each other."""
    fill(tmp_path, {"m": [0.5, 0.6, 0.7], "n": [0.4, 0.5, 0.6]})
    root = tmp_path / "hippocampus" / "records"
    with RecordStore(root) as store:
        identity = store.provenance({"protocol": "robustvox-1", "models": {"m": "m" * 4, "n": "n" * 4}})
    for path in root.glob("*/*/*.jsonl"):
        edit(path, lambda rows: [r | {"provenance": identity} if r["kind"] == "cost" else r for r in rows])
    write(tmp_path)
    assert check(tmp_path) == []
    path = root / "robustvox-1" / "n" / "pgd.jsonl"
    edit(path, lambda rows: rows[:-2])
    write(tmp_path)
    (problem,) = check(tmp_path)
    assert str(path) in problem
    assert "c02" in problem


def test_adding_a_model_changes_only_rows_that_show_it(tmp_path: Path) -> None:
    fill(tmp_path, {"m": [0.5] * 8})
    before = render(tmp_path)[tmp_path / "hippocampus" / "white_box.csv"].splitlines()
    fill(tmp_path, {"z": [0.25] * 8})
    after = render(tmp_path)[tmp_path / "hippocampus" / "white_box.csv"].splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1


def test_the_committed_records_are_whole() -> None:
    folders = record_folders(REPOSITORY / "results")
    assert len(folders) >= 2
    assert [row_problems(folder, load_records(folder)) for folder in folders] == [[]] * len(folders)


def test_the_summary_says_no_number_where_there_is_none(tmp_path: Path) -> None:
    fill(tmp_path, {"m": [0.5] * 8})
    with RecordStore(tmp_path / "hippocampus" / "records") as store:
        store.fail(unit(0, "fgsm:eps=8/255", "m"), "diverged")
    table = white_box(load_records(tmp_path / "hippocampus" / "records"))
    assert "| robustvox-1 | fgsm eps=8/255 | n/a |" in Summary(table, {}).markdown()
