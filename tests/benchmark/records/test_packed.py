"""Compressed rows come back as they were, repeat in their bytes, and are refused when broken."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from robustvox.benchmark.records.packed import read_packed, write_packed

TEXT = 'case,spec,dice\nä,"a,b",0.30000000000000004\nNA,,nan\n'


def test_cells_come_back_as_text(tmp_path):
    path = tmp_path / "rows.csv.gz"
    write_packed(path, TEXT)
    assert read_packed(path).to_numpy().tolist() == [["ä", "a,b", "0.30000000000000004"], ["NA", "", "nan"]]
    assert gzip.decompress(path.read_bytes()).decode() == TEXT
    assert len(pd.read_csv(path)) == 2  # as anybody opens it


def test_the_same_text_is_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_packed(tmp_path / name, TEXT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "broken",
    [b"", TEXT.encode(), gzip.compress(TEXT.encode(), mtime=0)[:-12], b"\x1f\x8b" + b"\xff" * 40],
    # The names of tests are the same in every process, or pytest-xdist runs none.
    ids=["empty", "plain", "cut off", "no deflate"],
)
def test_what_is_broken_is_refused(broken, tmp_path):
    (tmp_path / "rows.csv.gz").write_bytes(broken)
    with pytest.raises(ValueError, match="no whole gzip file|No columns"):
        read_packed(tmp_path / "rows.csv.gz")
