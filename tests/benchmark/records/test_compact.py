"""The compact form says what the first form said, to the last bit, and refuses what was edited."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.compact import Definitions, write_lines
from robustvox.benchmark.records.migrate import migrate_folder
from robustvox.benchmark.records.reading import Records, load_records, read_blocks
from robustvox.benchmark.records.rows import COST, encode, make_row
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import RecordsError, Unit
from robustvox.benchmark.show.files import render, write

REPOSITORY = Path(__file__).resolve().parents[3]
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.none() | st.floats(0, 1)
AMOUNTS = st.none() | st.floats(0, 1e300)
NAMES = st.text(max_size=12) | st.sampled_from(["\ud800", "a\nb", "=1", "", "é"])
STATUS = st.sampled_from(["ok", "missing", "hallucinated", "absent"])


def unit_of(**changes) -> Unit:
    base = {
        "dataset": "toy", "case": "c1", "attack": "pgd:eps=0.03", "surrogate": "unet", "surrogate_sha256": "a" * 64,
        "target": "unet", "target_sha256": "a" * 64, "protocol": "robustvox-1", "seed": 0, "data_sha256": "d1",
    }  # fmt: skip
    return Unit(**{**base, **changes})


@st.composite
def blocks(draw):
    """A unit of the first form with any numbers, or one that failed."""
    names = ("case", "attack", "surrogate", "target", "data_sha256")
    unit = unit_of(**{name: draw(NAMES) for name in names}, seed=draw(st.integers(-5, 5)))
    if draw(st.integers(0, 4)) == 0:
        return [make_row("failure", unit, {"error": draw(NAMES)}, ("error",))]
    fields = ("class_id", "class_name", "dice", "hd95_mm", "nsd", "status")
    rows = [
        make_row("score", unit, dict(zip(fields, values, strict=True)), fields)
        for values in zip(
            range(1, draw(st.integers(1, 4)) + 1),
            *(draw(st.lists(s, min_size=4, max_size=4)) for s in (NAMES, SHARES, AMOUNTS, SHARES, STATUS)),
            strict=False,
        )
    ]
    cost = {name: draw(AMOUNTS) for name in COST if name not in ("flags", "provenance", "ssim")}
    cost |= {"ssim": draw(SHARES), "flags": draw(st.lists(NAMES, max_size=2)), "provenance": draw(NAMES)}
    cost |= draw(st.sampled_from([{}, {"asr_voxel": 0.5, "asr_foreground": None}, {"linf_channels": "1 HU"}]))
    return [*rows, make_row("cost", unit, cost, COST)]


@settings(max_examples=40, deadline=None)
@given(st.lists(blocks(), min_size=1, max_size=4), st.data())
def test_what_was_written_comes_back_in_any_mixture_of_both_forms(tmp_path_factory, found, data):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    known, content = Definitions(), b""
    for block in found:
        compact = data.draw(st.booleans())
        content += write_lines(known.new_lines(block)) if compact else encode(*block)
    path.write_bytes(content)
    assert [block for block, _ in read_blocks(path)] == found


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> tuple[Path, Records, dict[str, str]]:
    """The committed records of one model, in the first form, with their frames and tables."""
    root = tmp_path_factory.mktemp("committed") / "results"
    target = root / "hippocampus" / "records" / "robustvox-1" / "unet"
    target.mkdir(parents=True)
    source = REPOSITORY / "results" / "hippocampus" / "records" / "robustvox-1" / "unet"
    for path in source.glob("*.jsonl"):
        if path.stem in ("clean", "pgd", "vafa", "gn"):
            rows = [row for block, _ in read_blocks(path) for row in block]
            (target / path.name).write_bytes(encode(*rows))
    folder = root / "hippocampus" / "records"
    return root, load_records(folder), {p.name: text for p, text in render(root).items()}


def test_migrated_records_are_a_third_and_say_the_same(committed, tmp_path, capsys):
    first, before, tables = committed
    root = tmp_path / "results"
    shutil.copytree(first, root)
    folder = root / "hippocampus" / "records"
    done = migrate_folder(folder)
    assert done.files == 4
    assert done.after < done.before / 3
    for field in dataclasses.fields(Records):
        pd.testing.assert_frame_equal(
            getattr(load_records(folder), field.name), getattr(before, field.name), check_exact=True
        )
    assert {path.name: text for path, text in render(root).items()} == tables
    content = {path: path.read_bytes() for path in folder.rglob("*.jsonl")}
    assert main(["migrate", "--out", str(root)]) == 0
    assert "0 files rewritten" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content


def test_pandas_reads_a_file_in_one_call(committed, tmp_path):
    shutil.copytree(committed[0], tmp_path / "results")
    migrate_folder(tmp_path / "results" / "hippocampus" / "records")
    path = next((tmp_path / "results").rglob("pgd.jsonl"))
    table = pd.read_json(path, lines=True, dtype=False, precise_float=True)
    units = table[table["kind"] == "unit"].explode(["dice", "hd95_mm", "nsd", "status"])
    scores = committed[1].scores
    wanted = scores[scores["attack"].str.startswith("pgd")]
    assert units["dice"].astype(float).tolist() == wanted["dice"].tolist()


def test_a_new_unit_joins_a_file_of_the_first_form(tmp_path):
    block = [
        make_row("score", unit_of(), {"class_id": 1, "class_name": "a", "dice": 0.5, "hd95_mm": 1.0, "nsd": 0.5,
                                      "status": "ok"}, ("class_id", "class_name", "dice", "hd95_mm", "nsd", "status")),
        make_row("cost", unit_of(), {**dict.fromkeys(COST[:-2], 0.0), "flags": [], "provenance": ""}, COST),
    ]  # fmt: skip
    path = tmp_path / "robustvox-1" / "unet" / "pgd.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(*block))
    before = path.read_bytes()
    with RecordStore(tmp_path) as store:
        assert store.done(unit_of())
        store.fail(unit_of(case="c2"), "diverged")
    assert path.read_bytes().startswith(before)
    assert len(load_records(tmp_path).costs) == len(load_records(tmp_path).failures) == 1


EDITS = {
    "another attack": (b'"attack":"pgd:eps=0.03"', b'"attack":"pgd:eps=0.02"', "name is not the hash"),
    "another case": (b'"case":"c1","dice"', b'"case":"c2","dice"', "which no line before it defines"),
    "another datum": (b'"data_sha256":"d1"', b'"data_sha256":"d2"', "name is not the hash"),
    "a class less": (b'"dice":[0.5,0.5]', b'"dice":[0.5]', "numbers for 2 classes"),
    "above the range": (b'"dice":[0.5,0.5]', b'"dice":[1.5,0.5]', "dice="),
    "below the range": (b'"hd95_mm":[1.0,1.0]', b'"hd95_mm":[-1.0,1.0]', "hd95_mm="),
    "no number": (b'"nsd":[0.5,0.5]', b'"nsd":[NaN,0.5]', "JSON object"),
    "a word": (b'"seconds":0.0', b'"seconds":"0.0"', "seconds='0.0'"),
    "true": (b'"seed":0', b'"seed":true', "seed=True"),
    "an unknown status": (b'"status":["ok","ok"]', b'"status":["ok","fine"]', "status="),
    "deep": (b'"flags":[]', b'"flags":' + b"[" * 5000 + b"]" * 5000, "JSON object|flags"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_line_is_one_line_that_says_how_to_restore_it(tmp_path, edit, capsys):
    results = tmp_path / "results"
    scores = [
        {"class_id": k, "class_name": f"k{k}", "dice": 0.5, "hd95_mm": 1.0, "nsd": 0.5, "status": "ok"}
        for k in (1, 2)
    ]
    cost = {**dict.fromkeys(COST[:-2], 0.0), "flags": [], "provenance": ""}
    with RecordStore(results / "toy" / "records") as store:
        store.append(unit_of(), scores, cost)
        store.append(unit_of(case="c9"), scores, cost)
    path = next(results.rglob("pgd.jsonl"))
    old, new, message = EDITS[edit]
    assert path.read_bytes().count(old) >= 1
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(RecordsError, match=message):
        load_records(results / "toy" / "records")
    assert main(["leaderboard", "--out", str(results)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "git checkout -- " in error


def test_an_edited_provenance_is_found(tmp_path):
    from robustvox.benchmark.show.files import check

    root = tmp_path / "toy" / "records"
    with RecordStore(root) as store:
        store.provenance({"protocol": "robustvox-1", "models": {"unet": "a" * 64}})
    write(tmp_path)
    assert check(tmp_path) == []
    path = root / "robustvox-1" / "provenance.jsonl"
    line = json.loads(path.read_text())
    line["entry"]["models"] = {}
    path.write_text(json.dumps(line) + "\n")
    (problem,) = check(tmp_path)
    assert "the line was edited" in problem
    path.write_text(json.dumps({**line, "entry": {"protocol": 5}}) + "\n")
    (problem,) = check(tmp_path)
    assert "expected the provenance of a run" in problem
