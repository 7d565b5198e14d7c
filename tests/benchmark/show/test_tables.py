"""Tables by hand, byte stability, escaping, and the check of committed files."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from robustvox.benchmark.records.reading import Records, load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.show.files import check, render, write
from robustvox.benchmark.show.tables.results import COLUMNS, transfer, white_box

from ..first_form import spread

COST: dict[str, Any] = {
    "linf": 0.0,
    "l2": 0.0,
    "psnr": 40.0,
    "ssim": 1.0,
    "forwards": 1,
    "backwards": 0,
    "seconds": 1.0,
    "flags": [],
    "provenance": "p",
}
Action = Callable[[RecordStore], None]


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def make_unit(case: str, attack: str, **changes: Any) -> Unit:
    base: dict[str, Any] = {
        "dataset": "phantom",
        "surrogate": "unet",
        "surrogate_sha256": "a" * 64,
        "target": "unet",
        "target_sha256": "a" * 64,
        "protocol": "robustvox-1",
        "seed": 0,
        "data_sha256": "",
    }
    return Unit(case=case, attack=attack, **base | changes)


def scored(unit: Unit, classes: Iterable[tuple[float, float, float, str]], **cost: Any) -> Action:
    rows = [
        {"class_id": i, "class_name": f"organ {i}", "dice": d, "hd95_mm": h, "nsd": n, "status": status}
        for i, (d, h, n, status) in enumerate(classes, start=1)
    ]
    return lambda store: store.append(unit, rows, COST | cost)


def failed(unit: Unit) -> Action:
    return lambda store: store.fail(unit, "diverged")


def store_all(results: Path, actions: Iterable[Action], dataset: str = "phantom") -> Records:
    root = results / dataset / "records"
    with RecordStore(root) as store:
        for action in actions:
            action(store)
    return load_records(root)


NAN = math.nan
OK = (0.9, 1.0, 0.8, "ok")


def hand_example() -> list[Action]:
    """Two classes, three cases; one class absent once, one organ erased, one case failed."""
    return [
        scored(make_unit("c1", "none"), [(0.9, 1.0, 0.8, "ok"), (0.7, 2.0, 0.6, "ok")]),
        scored(make_unit("c2", "none"), [(0.8, 3.0, 0.7, "ok"), (NAN, NAN, NAN, "absent")]),
        scored(make_unit("c3", "none"), [(0.1, 99.0, 0.1, "ok"), (0.1, 99.0, 0.1, "ok")]),
        scored(
            make_unit("c1", "pgd"),
            [(0.5, 4.0, 0.4, "ok"), (0.0, 50.0, 0.0, "missing")],
            linf=0.02, l2=3.0, psnr=30.0, ssim=0.9, forwards=21, backwards=20, seconds=2.0,
            flags=["slow", "b"],
        ),
        scored(
            make_unit("c2", "pgd"),
            [(0.25, 6.0, 0.2, "ok"), (0.0, 50.0, 0.0, "hallucinated")],
            linf=0.03, l2=5.0, psnr=math.inf, ssim=0.8, forwards=11, backwards=10, seconds=4.0, flags=["b"],
        ),
        failed(make_unit("c3", "pgd")),
    ]  # fmt: skip


@pytest.mark.usefixtures("few_patients")
def test_hand_computed(tmp_path: Path) -> None:
    records = store_all(tmp_path, hand_example())
    table = white_box(records)
    assert tuple(table.columns) == COLUMNS
    assert transfer(records).empty
    (row,) = table.to_dict("records")
    assert [row[name] for name in COLUMNS[:6]] == ["phantom", "robustvox-1", "unet", "unet", "pgd", 2]
    # Only the two scored cases enter the clean means, although the third has a clean record.
    assert row["dice_clean"] == pytest.approx((0.8 + 0.8) / 2)
    assert row["hd95_clean_mm"] == pytest.approx((1.5 + 3.0) / 2)
    assert row["nsd_clean"] == pytest.approx((0.7 + 0.7) / 2)
    assert row["dice_adv"] == pytest.approx((0.25 + 0.125) / 2)
    assert row["hd95_adv_mm"] == pytest.approx((27.0 + 28.0) / 2)
    assert row["nsd_adv"] == pytest.approx((0.2 + 0.1) / 2)
    assert (row["dice_adv_low"], row["dice_adv_high"]) == (0.125, 0.25)
    assert (row["missing"], row["hallucinated"], row["failed"]) == (1, 1, 1)
    assert (row["linf"], row["l2"], row["psnr"], row["forwards"]) == (0.03, 4.0, 30.0, 16.0)
    assert (row["ssim"], row["backwards"], row["seconds"]) == pytest.approx((0.85, 15.0, 3.0))
    assert row["flags"] == "b;slow"


@pytest.mark.usefixtures("few_patients")
def test_interval_is_the_bootstrap_of_the_cases(tmp_path: Path) -> None:
    dice = [0.1, 0.5, 0.6, 0.9, 0.2, 0.4, 0.45]
    actions = [
        scored(make_unit(f"c{i}", attack), [(d, 1, 1, "ok")])
        for i, d in enumerate(dice)
        for attack in ("a", "b", "none")
    ]
    table = white_box(store_all(tmp_path, actions))
    means = np.random.default_rng(5).choice(dice, (100_000, len(dice))).mean(axis=1)
    tail = norm.cdf(-((7 / 6) ** 0.5) * student.ppf(0.975, 6))
    low, high = np.quantile(means, [tail, 1 - tail])
    assert table.dice_adv_low.tolist() == pytest.approx([low] * 2, abs=0.01)
    assert table.dice_adv_high.tolist() == pytest.approx([high] * 2, abs=0.01)
    # Paired: the same cases drawn in both rows.
    assert table.dice_adv_low[0] == table.dice_adv_low[1]


@pytest.mark.usefixtures("few_patients")
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_losing_or_inventing_an_organ_never_improves_a_table(tmp_path: Path, data: st.DataObject) -> None:
    organ = st.one_of(
        st.tuples(st.floats(0.01, 1), st.floats(0, 30), st.floats(0, 1), st.just("ok")),
        st.just((NAN, NAN, NAN, "absent")),
    )
    cases = data.draw(st.lists(st.tuples(organ, organ, organ), min_size=1, max_size=4))
    assume(all(any(status == "ok" for *_, status in case) for case in cases))
    case = data.draw(st.integers(0, len(cases) - 1))
    index = data.draw(st.integers(0, 2))
    # The volume's diagonal is what score gives; no surface distance exceeds it.
    fate = "hallucinated" if cases[case][index][-1] == "absent" else "missing"
    worse = [list(one) for one in cases]
    worse[case][index] = (0.0, 30.0, 0.0, fate)
    rows = []
    for name, volumes in (("before", cases), ("after", worse)):
        actions = [scored(make_unit(f"c{i}", "pgd"), volume) for i, volume in enumerate(volumes)]
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        rows += white_box(store_all(folder / name, actions)).to_dict("records")
    before, after = rows
    for column in ("dice_adv", "dice_adv_low", "dice_adv_high", "nsd_adv"):
        assert after[column] <= before[column] + 1e-12, column
    assert after["hd95_adv_mm"] >= before["hd95_adv_mm"] - 1e-9
    assert (after["missing"] + after["hallucinated"]) == 1
    assert after["n_cases"] == before["n_cases"]


def test_transfer_and_one_name_with_two_checkpoints(tmp_path: Path) -> None:
    other = {"target": "unet", "target_sha256": "b" * 64}
    own = {"surrogate": "unet", "surrogate_sha256": "b" * 64}
    swin = {"target": "swin", "target_sha256": "c" * 64}
    actions = [
        scored(make_unit("c1", "none"), [OK]),
        scored(make_unit("c1", "none", **own, **other), [(0.6, 1.0, 0.8, "ok")]),
        scored(make_unit("c1", "pgd"), [OK]),
        scored(make_unit("c1", "pgd", **other), [OK]),
        scored(make_unit("c1", "pgd", **swin), [OK]),
    ]
    records = store_all(tmp_path, actions)
    assert white_box(records)[["surrogate", "target"]].values.tolist() == [["unet@aaaaaaaa"] * 2]
    table = transfer(records)
    assert table.target.tolist() == ["swin", "unet@bbbbbbbb"]
    assert table.surrogate.tolist() == ["unet@aaaaaaaa"] * 2
    assert table.dice_clean.tolist() == pytest.approx([NAN, 0.6], nan_ok=True)
    assert table["flags"].tolist() == ["clean-incomplete", ""]


def test_clean_means_are_empty_unless_every_case_has_one(tmp_path: Path) -> None:
    actions = [scored(make_unit(case, "pgd"), [OK]) for case in ("c1", "c2")]
    table = white_box(store_all(tmp_path, [scored(make_unit("c1", "none"), [OK]), *actions]))
    assert table.n_cases.tolist() == [2]
    assert table[["dice_clean", "hd95_clean_mm", "nsd_clean"]].isna().all(axis=None)
    assert table["flags"].tolist() == ["clean-incomplete"]


def test_only_failures_make_a_row_without_numbers(tmp_path: Path) -> None:
    actions = [
        failed(make_unit("c1", "pgd")),
        failed(make_unit("c2", "pgd")),
        failed(make_unit("c1", "none")),
    ]
    table = white_box(store_all(tmp_path, actions))
    assert table[["n_cases", "failed", "missing", "flags"]].values.tolist() == [[0, 2, 0, ""]]
    assert table.dice_adv.isna().all()
    assert check(tmp_path)
    write(tmp_path)
    assert check(tmp_path) == []


@pytest.mark.usefixtures("few_patients")
def test_class_absent_everywhere_is_not_a_zero(tmp_path: Path) -> None:
    absent = [(NAN, NAN, NAN, "absent")]
    actions = [
        scored(make_unit(c, a), absent if c == "c2" else [OK]) for c in ("c1", "c2") for a in ("none", "x")
    ]
    (row,) = white_box(store_all(tmp_path, actions)).to_dict("records")
    assert (row["n_cases"], row["dice_adv"], row["dice_adv_low"], row["dice_clean"]) == (2, 0.9, 0.9, 0.9)


def test_seeds_of_one_case_are_averaged_first(tmp_path: Path) -> None:
    gone = (0.0, 9.0, 0.0, "missing")
    actions = [scored(make_unit("c1", "pgd", seed=seed), [gone]) for seed in range(3)]
    actions += [scored(make_unit("c2", "pgd"), [(0.8, 1, 1, "ok")])]
    (row,) = white_box(store_all(tmp_path, actions)).to_dict("records")
    assert (row["n_cases"], row["missing"], row["dice_adv"]) == (2, 1, 0.4)


def test_same_bytes_for_any_order_of_the_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    actions = [
        scored(
            make_unit(f"c{case}", attack, target=target, target_sha256=sha),
            [(*rng.random(3), "ok"), (*rng.random(3), "missing")],
            l2=rng.random(), psnr=rng.random() * 40, flags=[f"f{case % 2}"],
        )
        for case, attack, (target, sha) in itertools.product(
            range(5), ("none", "pgd", "vafa"), (("unet", "a" * 64), ("swin", "b"))
        )
    ]  # fmt: skip
    actions.append(failed(make_unit("c9", "pgd")))
    texts = []
    for run in range(4):
        order = rng.permutation(len(actions)) if run else range(len(actions))
        store_all(tmp_path / str(run), [actions[i] for i in order])
        texts.append([text for _, text in sorted(render(tmp_path / str(run)).items())])
    assert len(texts[0]) == 12
    assert all(text == texts[0] for text in texts)


def test_check_finds_a_tampered_number_missing_and_stale_files(tmp_path: Path) -> None:
    store_all(tmp_path, hand_example())
    assert len(check(tmp_path)) == 9
    write(tmp_path)
    assert check(tmp_path) == []
    path = tmp_path / "phantom" / "white_box.csv"
    original = path.read_bytes()
    assert b"\r" not in original
    path.write_bytes(original.replace(b"0.1875", b"0.1876"))
    (problem,) = check(tmp_path)
    assert "white_box.csv (committed)" in problem
    assert "0.1876" in problem
    assert "0.1875" in problem
    path.write_bytes(original.replace(b"\n", b"\r\n"))
    assert len(check(tmp_path)) == 1
    path.unlink()
    assert "white_box.csv (missing)" in check(tmp_path)[0]
    write(tmp_path)
    path.with_name("transfer.md").write_text("old\n")
    assert "transfer.md (no records behind it)" in check(tmp_path)[0]
    write(tmp_path)
    assert check(tmp_path) == []
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "lost_organs.csv", "records", "success.csv", "success.md", "summary.md", "summary.tex",
        "white_box.csv", "white_box.md", "white_box.tex",
    ]  # fmt: skip
    orphan = tmp_path / "other"
    orphan.mkdir()
    (orphan / "white_box.csv").write_text("")
    assert len(check(tmp_path)) == 1


def test_csv_holds_unrounded_numbers(tmp_path: Path) -> None:
    records = store_all(tmp_path, hand_example())
    text = render(tmp_path)[tmp_path / "phantom" / "white_box.csv"]
    (row,) = csv.DictReader(io.StringIO(text))
    expected = white_box(records).iloc[0]
    for name in ("dice_adv", "hd95_adv_mm", "ssim", "linf"):
        assert float(row[name]) == expected[name]
    assert (row["missing"], row["n_cases"]) == ("1", "2")


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    hostile = "=cmd|'/c'!A1"
    latex = r"\input{x}$&#%_^~<>[*"
    names = {"surrogate": latex, "target": latex, "dataset": '+a,"b"\nc', "protocol": "\t\ud800\u2028x"}
    unit = make_unit("c1", hostile, **names)
    store_all(tmp_path, [scored(unit, [OK], flags=["<script>alert(1)</script>", "[x](javascript:1)"])])
    files = {path.name: text for path, text in render(tmp_path).items()}
    (row,) = csv.DictReader(io.StringIO(files["white_box.csv"]))
    assert row["attack"] == "'" + hostile
    assert row["dataset"] == '\'+a,"b" c'
    assert row["protocol"].startswith("'\t")
    assert row["surrogate"] == latex
    markdown = files["white_box.md"]
    assert "<" not in markdown
    assert r"\[x\](javascript" in markdown
    assert markdown.count("\n") == 3
    assert r"=cmd\|" in markdown
    body = files["white_box.tex"].splitlines()[4]
    assert r"\textbackslash{}input\{x\}\$\&\#\%\_\textasciicircum{}\textasciitilde{}" in body
    assert r"\textless{}\textgreater{}{[}{*}" in body
    assert body.count(" & ") == files["white_box.tex"].splitlines()[2].count(" & ")
    write(tmp_path)
    assert check(tmp_path) == []


@pytest.mark.slow
def test_a_hundred_thousand_rows_render(tmp_path: Path) -> None:
    root = tmp_path / "phantom" / "records"
    with RecordStore(root) as store:
        scored(make_unit("c0", "none"), [OK] * 8)(store)
    (path,) = root.glob("*/*/*.jsonl")
    block = spread(path).read_text()
    path.unlink()
    with path.open("w") as file:
        for attack, case in itertools.product(range(250), range(50)):
            unit = make_unit(f"c{case}", f"pgd:steps={attack}" if attack else "none")
            file.write(
                block.replace(make_unit("c0", "none").key, unit.key)
                .replace('"case": "c0"', f'"case": "{unit.case}"')
                .replace('"attack": "none"', f'"attack": "{unit.attack}"')
            )
    text = render(tmp_path)[tmp_path / "phantom" / "white_box.csv"]
    assert text.count("\n") == 250
