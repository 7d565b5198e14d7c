"""The tables say what the rows say."""

from __future__ import annotations

import gzip
import math

import pytest

from robustvox.benchmark.studies.stealing.rows import (
    FUNCTION_FILE,
    TRANSFER_FILE,
    FunctionRow,
    Rows,
    TransferRow,
)
from robustvox.benchmark.studies.stealing.study import WHITE_BOX
from robustvox.benchmark.studies.stealing.tables import queries_table, tables, write
from robustvox.benchmark.studies.stealing.thefts import PLAIN


def function(subject, case, seed=0, dice=0.5, agreement=0.7, queries=38, spec="s", empty=False):
    return FunctionRow(victim_sha256="v", shift="edge:6", seed=seed, subject=subject, spec=spec, queries=queries,
                       case=case, dice=dice, agreement=agreement, empty=empty)  # fmt: skip


def transfer(surrogate, case, drop, attack="smooth:eps=8/255", eps=8 / 255, seed=0):
    return TransferRow(victim_sha256="v", seed=seed, surrogate=surrogate, spec="s", attack=attack, eps=eps, case=case,
                       dice_clean=0.8, dice_adv=0.8 - drop, linf=eps, l2=1.0)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    rows = Rows(tmp_path / FUNCTION_FILE, FunctionRow)
    for seed, agreement in ((0, 0.8), (1, 0.9)):
        rows.add([function(PLAIN, case, seed, dice, agreement) for case, dice in (("a", 0.7), ("b", 0.8))])
    rows.add([function("10 queries", case, queries=10, agreement=0.5, empty=case == "a") for case in "ab"])
    rows.add([function("victim on A", case, queries=0, dice=0.9, agreement=1.0) for case in "ab"])
    moved = Rows(tmp_path / TRANSFER_FILE, TransferRow)
    moved.add([transfer(WHITE_BOX, case, drop) for case, drop in (("a", 0.2), ("b", 0.4))])
    for seed, drop in ((0, 0.1), (1, 0.2)):
        moved.add([transfer(PLAIN, case, drop, seed=seed) for case in "ab"])
    moved.add([transfer("smoothed sign noise", case, 0.003, "smooth_noise:eps=8/255") for case in "ab"])
    moved.add([transfer("sign noise", case, 0.0, "uniform:eps=8/255") for case in "ab"])
    return tmp_path


def test_seeds_are_averaged_per_patient_first(folder, few_patients):
    made = tables(folder)
    table = made["function"].set_index("row")
    assert next(iter(table.index)) == "victim on A"
    plain = table.loc[PLAIN]
    assert (plain["n_cases"], plain["n_seeds"], plain["queries"]) == (2, 2, 38)
    assert plain["dice"] == pytest.approx(0.75)
    assert (plain["dice_low"], plain["dice_high"]) == pytest.approx((0.7, 0.8))
    assert plain["agreement"] == pytest.approx(0.85)
    assert plain["worst_seed_agreement"] == pytest.approx(0.8)
    assert table.loc["10 queries"]["empty"] == 1


def test_the_ratio_is_to_the_same_attack_in_the_white_box(folder):
    table = tables(folder)["transfer"].set_index("surrogate")
    assert table.loc[WHITE_BOX]["transfer_ratio"] == pytest.approx(1.0)
    assert table.loc[PLAIN]["drop"] == pytest.approx(0.15)
    assert table.loc[PLAIN]["transfer_ratio"] == pytest.approx(0.5)
    assert table.loc[PLAIN]["least_seed_drop"] == pytest.approx(0.1)
    assert table.loc["smoothed sign noise"]["transfer_ratio"] == pytest.approx(0.01)
    assert math.isnan(table.loc["sign noise"]["transfer_ratio"])  # no pgd in the white box here


def test_agreement_against_queries(folder):
    curve = queries_table(tables(folder)["function"])
    assert list(curve["queries"]) == [10, 38]


def test_rows_are_written_once_and_read_back_bit_for_bit(tmp_path):
    rows = Rows(tmp_path / "deep" / FUNCTION_FILE, FunctionRow)
    assert not rows.has(["a"], seed=0)
    first = function("x", "a", dice=0.1 + 0.2, agreement=1 / 3)
    rows.add([first])
    rows.add([function("x", "a", dice=0.1 + 0.2, agreement=1 / 3), function("x", "b", empty=True)])
    read = rows.read()
    assert len(read) == 2
    assert read["dice"][0] == 0.1 + 0.2
    assert read["agreement"][0] == 1 / 3
    assert list(read["empty"]) == [False, True]
    assert rows.has(["a", "b"], seed=0, subject="x")
    assert not rows.has(["a", "b", "c"], seed=0)
    assert not rows.has(["a"], seed=1)


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / FUNCTION_FILE
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(ValueError, match="expected the columns victim_sha256"):
        Rows(path, FunctionRow).read()
    path.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(ValueError, match="found no whole gzip file .* remove the file"):
        Rows(path, FunctionRow).read()


def test_written_files_follow_from_the_rows(folder):
    write(folder)
    first = {
        name: (folder / name).read_bytes()
        for name in ("function.csv", "transfer.csv", "queries.csv", "tables.md")
    }
    write(folder)
    assert first == {name: (folder / name).read_bytes() for name in first}
    assert b"| stolen, calibrated queries | 2 | 38 | 0.750" in first["tables.md"]
