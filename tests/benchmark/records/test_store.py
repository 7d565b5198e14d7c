"""Records survive kills at any byte, hostile names, reruns and second writers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.records.reading import Records, load_records, read_blocks
from robustvox.benchmark.records.rows import encode
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import RecordsError, Unit


def make_unit(**changes: Any) -> Unit:
    base: dict[str, Any] = {
        "dataset": "phantom",
        "case": "c1",
        "attack": "pgd:eps=0.03",
        "surrogate": "unet",
        "surrogate_sha256": "a" * 64,
        "target": "unet",
        "target_sha256": "a" * 64,
        "protocol": "robustvox-1",
        "seed": 0,
        "data_sha256": "d1",
    }
    return Unit(**base | changes)


def make_scores(dice: float = 0.5) -> list[dict[str, Any]]:
    names = ("liver", "spleen")
    return [
        {"class_id": i, "class_name": name, "dice": dice, "hd95_mm": 3.0 * i, "nsd": 0.1, "status": "ok"}
        for i, name in enumerate(names, start=1)
    ]


COST: dict[str, Any] = {
    "linf": 0.03,
    "l2": 9.8,
    "psnr": 30.5,
    "ssim": 0.97,
    "forwards": 21,
    "backwards": 20,
    "seconds": 1.5,
    "flags": ["equal-to-clean"],
    "provenance": "p",
}


def assert_same(first: Records, second: Records) -> None:
    for field in dataclasses.fields(Records):
        pd.testing.assert_frame_equal(
            getattr(first, field.name), getattr(second, field.name), check_exact=True
        )


def spread(path: Path) -> Path:
    """Rewrite a file in the first form."""
    path.write_bytes(encode(*(row for block, _ in read_blocks(path) for row in block)))
    return path


def only_file(root: Path) -> Path:
    (path,) = root.glob("*/*/*.jsonl")
    return path


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    unit = make_unit()
    scores = make_scores(0.1 + 0.2)
    scores[1] |= {"dice": math.nan, "hd95_mm": np.float32(1.5), "class_id": np.int64(2), "status": "absent"}
    with RecordStore(tmp_path) as store:
        store.append(unit, scores, COST | {"psnr": math.inf, "flags": ("b", "a")})
    loaded = load_records(tmp_path)
    assert loaded.scores.dice[0] == 0.1 + 0.2
    assert math.isnan(loaded.scores.dice[1])
    assert math.isnan(loaded.costs.psnr[0])
    assert loaded.costs["flags"][0] == ["b", "a"]
    assert loaded.scores.unit.tolist() == [unit.key] * 2
    assert loaded.costs[["surrogate_sha256", "data_sha256"]].values.tolist() == [["a" * 64, "d1"]]
    text = only_file(tmp_path).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert only_file(tmp_path) == tmp_path / "robustvox-1" / "unet" / "pgd.jsonl"


def test_clean_predictions_have_their_own_file(tmp_path: Path) -> None:
    with RecordStore(tmp_path) as store:
        store.append(make_unit(attack="none"), make_scores(), COST)
    assert only_file(tmp_path).name == "clean.jsonl"


def test_no_records(tmp_path: Path) -> None:
    loaded = load_records(tmp_path / "nowhere")
    assert loaded.scores.empty
    assert loaded.costs.empty
    assert loaded.failures.columns[-1] == "error"


def test_key_depends_on_every_field() -> None:
    unit = make_unit()
    keys = {unit.key}
    for field in dataclasses.fields(Unit):
        keys.add(dataclasses.replace(unit, **{field.name: 1 if field.name == "seed" else "x"}).key)
    assert len(keys) == 1 + len(dataclasses.fields(Unit))


def test_done_and_rerun(tmp_path: Path) -> None:
    unit = make_unit()
    with RecordStore(tmp_path) as store:
        assert not store.done(unit)
        assert not tmp_path.joinpath("robustvox-1").exists()
        store.fail(unit, "out of memory")
        assert not store.done(unit)
        assert load_records(tmp_path).failures.error.tolist() == ["out of memory"]
        store.append(unit, make_scores(), COST)
        assert store.done(unit)
        assert load_records(tmp_path).failures.empty
    with RecordStore(tmp_path) as store:
        assert store.done(unit)
        assert not store.done(make_unit(seed=1))
        store.append(unit, make_scores(0.25), COST)
    assert load_records(tmp_path).scores.dice.tolist() == [0.25, 0.25]


def test_changed_data_replaces_the_old_result(tmp_path: Path) -> None:
    old, new = make_unit(), make_unit(data_sha256="d2")
    with RecordStore(tmp_path) as store:
        store.append(old, make_scores(0.1), COST)
        assert not store.done(new)
        store.append(new, make_scores(0.2), COST)
        assert not store.done(old)
    assert load_records(tmp_path).costs.data_sha256.tolist() == ["d2"]


@pytest.mark.parametrize("last", ["success", "failure"])
def test_killed_at_every_byte_of_the_last_block(
    tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # some thousand of them take half a minute
    first, second = make_unit(), make_unit(case="c2")

    def finish(store: RecordStore) -> None:
        if last == "success":
            store.append(second, make_scores(0.7), COST)
        else:
            store.fail(second, "diverged")

    with RecordStore(tmp_path) as store:
        store.append(first, make_scores(), COST)
    before = load_records(tmp_path)
    path = only_file(tmp_path)
    size, blocks = path.stat().st_size, [block for block, _ in read_blocks(path)]
    with RecordStore(tmp_path) as store:
        finish(store)
    whole, after = path.read_bytes(), load_records(tmp_path)
    for length in range(size, len(whole)):
        path.write_bytes(whole[:length])
        assert [block for block, _ in read_blocks(path)] == blocks
        if length % 16 == 0:  # the same through the frames, which take longer to build
            assert_same(load_records(tmp_path), before)
        with RecordStore(tmp_path) as store:
            assert store.done(first)
            assert not store.done(second)
            finish(store)
        assert path.read_bytes() == whole
    assert_same(load_records(tmp_path), after)


def test_killed_process_leaves_readable_records(tmp_path: Path) -> None:
    script = (
        "import sys, itertools; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from test_store import *\n"
        "with RecordStore(Path(sys.argv[1])) as store:\n"
        "    for i in itertools.count():\n"
        "        store.append(make_unit(case=str(i)), make_scores(), COST)\n"
        "        if i == 3: print('ready', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(RecordsError, match="another run is writing"):
            RecordStore(tmp_path).fail(make_unit(), "")
        process.kill()
    count = len(load_records(tmp_path).costs)
    assert count >= 4
    with RecordStore(tmp_path) as store:
        store.append(make_unit(case="last"), make_scores(), COST)
    assert len(load_records(tmp_path).costs) == count + 1


def test_a_failed_write_is_repaired_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordStore(tmp_path) as store:
        store.append(make_unit(), make_scores(), COST)

        def disk_full(path: Path, data: bytes) -> None:
            path.write_bytes(path.read_bytes() + data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("robustvox.benchmark.records.store._append", disk_full)
            with pytest.raises(OSError, match="No space"):
                store.append(make_unit(case="c2"), make_scores(), COST)
        assert not store.done(make_unit(case="c2"))
        store.append(make_unit(case="c3"), make_scores(), COST)
    assert load_records(tmp_path).costs.case.tolist() == ["c1", "c3"]


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (b"<<<<<<< HEAD", "not a JSON object"),
        (b"\xff\x00", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"kind": "score"}', "a score row without"),
        (b'{"kind": ["x"]}', "kind"),
    ],
)
def test_garbage_in_the_middle_names_file_and_line(tmp_path: Path, garbage: bytes, message: str) -> None:
    with RecordStore(tmp_path) as store:
        store.append(make_unit(), make_scores(), COST)
    path = only_file(tmp_path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], garbage, *lines[1:], b""]))
    with pytest.raises(RecordsError, match=rf"pgd\.jsonl, line 2: .*{message}"):
        load_records(tmp_path)
    with RecordStore(tmp_path) as store, pytest.raises(RecordsError, match="line 2"):
        store.fail(make_unit(), "x")


def test_wrong_types_and_lone_cost_rows_are_refused(tmp_path: Path) -> None:
    with RecordStore(tmp_path) as store:
        store.append(make_unit(), make_scores(), COST)
    path = only_file(tmp_path)
    lines = spread(path).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines).replace(b'"dice": 0.5', b'"dice": "=cmd"'))
    with pytest.raises(RecordsError, match="dice='=cmd'"):
        load_records(tmp_path)
    path.write_bytes(lines[2] + b"".join(lines))
    with pytest.raises(RecordsError, match=r"line 1: .*without score rows"):
        load_records(tmp_path)


def test_rows_without_closing_row_are_ignored_anywhere(tmp_path: Path) -> None:
    with RecordStore(tmp_path) as store:
        store.append(make_unit(case="torn"), make_scores(), COST)
        store.append(make_unit(), make_scores(), COST)
    path = only_file(tmp_path)
    lines = spread(path).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert load_records(tmp_path).costs.case.tolist() == ["c1"]
    assert load_records(tmp_path).scores.case.tolist() == ["c1", "c1"]


HOSTILE = ["../../x", "<script>", "=cmd", "", ".", "..", "a/b", "a\\b", "CON", "nul.txt", "x" * 500,
           "é\n\u2028", "provenance.jsonl", "\ud800", "-rf", ".git", "a|b", "c:d"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_and_come_back(tmp_path: Path, name: str) -> None:
    root = tmp_path / "outer" / "records"
    unit = make_unit(case=name, attack=name, surrogate=name, target=name, protocol=name, dataset=name)
    with RecordStore(root) as store:
        store.append(unit, make_scores(), COST)
        store.provenance({"protocol": name})
        assert store.done(unit)
    loaded = load_records(root)
    assert loaded.costs[["case", "attack", "surrogate", "protocol"]].values.tolist() == [[name] * 4]
    assert [path.name for path in tmp_path.iterdir()] == ["outer"]
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["records"]
    assert len(only_file(root).relative_to(root).parts) == 3


def test_different_hostile_names_do_not_share_a_file(tmp_path: Path) -> None:
    with RecordStore(tmp_path) as store:
        for name in HOSTILE:
            store.append(make_unit(surrogate=name), make_scores(), COST)
    assert len(list(tmp_path.glob("*/*/*.jsonl"))) == len(HOSTILE)


def test_provenance_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "robustvox-1" / "provenance.jsonl"
    with RecordStore(tmp_path) as store:
        entry = {"protocol": "robustvox-1", "torch": "2.14", "argv": ("run", "x")}
        first = store.provenance(entry)
        assert store.provenance(dict(reversed(entry.items()))) == first
        second = store.provenance(entry | {"torch": "2.15"})
    with path.open("ab") as file:
        file.write(b'{"id": "torn')
    with RecordStore(tmp_path) as store:
        assert store.provenance(entry) == first
        third = store.provenance(entry | {"torch": "2.16"})
        with pytest.raises(ValueError, match="expected a key 'protocol'"):
            store.provenance({"torch": "2.14"})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [first, second, third]
    assert load_records(tmp_path).costs.empty


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = RecordStore(tmp_path), RecordStore(tmp_path)
    first.append(make_unit(), make_scores(), COST)
    with pytest.raises(RecordsError, match="only writer"):
        second.append(make_unit(case="c2"), make_scores(), COST)
    assert second.done(make_unit())
    first.append(make_unit(case="c2"), make_scores(), COST)
    first.close()
    second.append(make_unit(case="c3"), make_scores(), COST)
    assert second.done(make_unit(case="c2"))
    second.close()


def test_works_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RecordStore(tmp_path) as store:
        store.append(make_unit(), make_scores(), COST)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with RecordStore(tmp_path) as store:
        store.append(make_unit(case="c2"), make_scores(), COST)
    assert len(load_records(tmp_path).costs) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.append(make_unit(), [], COST), "one row per foreground class"),
        (
            lambda s: s.append(make_unit(), make_scores() + make_scores()[:1], COST),
            "one row per foreground class",
        ),
        (lambda s: s.append(make_unit(), [{"class_id": 1}], COST), "score row: expected the fields"),
        (
            lambda s: s.append(make_unit(), make_scores(), COST | {"extra": 1}),
            "cost row: expected the fields",
        ),
        (lambda s: s.append(make_unit(), make_scores(), COST | {"l2": "x"}), "l2='x'"),
        (lambda s: s.append(make_unit(), make_scores(), COST | {"flags": "x"}), "flags='x'"),
        (lambda s: s.provenance({"protocol": "p", "x": object()}), "expected JSON values"),
        (lambda s: make_unit(seed="0"), "Unit.seed: expected int"),
        (lambda s: make_unit(case=None), "Unit.case: expected str"),
    ],
)
def test_unusable_input_writes_nothing(tmp_path: Path, call: Callable, message: str) -> None:
    with RecordStore(tmp_path) as store, pytest.raises(ValueError, match=message):
        call(store)
    assert os.listdir(tmp_path) == []
