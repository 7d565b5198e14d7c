"""The page about own models shows code that runs, and formats that are recognized."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.models import CATALOG
from robustvox.models.bring.published import SIGNATURES

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "own_model.md").read_text(encoding="utf-8")


@pytest.fixture
def basic_unet(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "examples")
    yield importlib.import_module("own_model").basic_unet
    sys.modules.pop("own_model", None)


def test_the_page_shows_the_example_file():
    code = (DOCS / "examples" / "own_model.py").read_text()
    assert len(code.splitlines()) < 40
    assert re.findall(r"```python\n(.*?)```", PAGE, re.S) == [code]


def test_the_example_runs_with_a_checkpoint(basic_unet, tmp_path):
    network = basic_unet(1, 8, width=2)
    torch.save(network.network.state_dict(), tmp_path / "weights.pt")
    arguments = ["--model", "own_model:basic_unet:width=2", "--checkpoint", str(tmp_path / "weights.pt")]
    assert (
        main(["--no-report", *arguments, "--attack", "fgsm", "--cases", "1", "--out", str(tmp_path / "out")])
        == 0
    )
    row = pd.read_csv(tmp_path / "out" / "phantom" / "white_box.csv").iloc[0]
    assert (row["surrogate"], row["failed"]) == ("own_model:basic_unet:width=2", 0)
    assert row["linf"] > 0


def test_the_example_refuses_another_checkpoint(basic_unet, tmp_path, capsys):
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    arguments = ["--model", "own_model:basic_unet", "--checkpoint", str(tmp_path / "weights.pt")]
    assert main([*arguments, "--attack", "fgsm", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "own_model:basic_unet: RuntimeError" in error
    assert "Missing key(s)" in error
    assert "(at own_model.py:" in error
    assert error.count("\n") == 1


def test_the_example_scales_the_images(basic_unet):
    model = basic_unet(1, 3, width=2, mean=0.25, std=0.5).eval()
    images = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), model.network(2 * images - 0.5))


def test_the_table_of_published_checkpoints_names_every_architecture():
    table = PAGE.partition("| architecture |")[2].partition("\n\n")[0]
    named = re.findall(
        r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    )
    assert sorted(named) == sorted(SIGNATURES)
    # All of the published ones: the registry without our own.
    assert set(named) == set(CATALOG) - {"mamba_unet"}
