"""What is committed stays small enough to travel, and pictures are stored as they should be."""

from __future__ import annotations

import importlib
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MOST = 60 * 2**20


def test_the_tracked_tree_stays_under_60_mib():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    assert sum(file.stat().st_size for file in files if file.is_file()) < MOST


@pytest.fixture
def compress(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("compress_figures")


def test_figures_of_the_documentation_are_compressed(compress):
    for path in sorted(compress.FIGURES.glob("*.png")):
        with Image.open(path) as picture:
            assert picture.mode != "RGBA", f"{path.name}; run python docs/compress_figures.py"


def test_a_picture_of_many_shades_keeps_them_to_two_levels(compress, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(compress, "FIGURES", tmp_path)
    compress.main()
    with Image.open(tmp_path / "a.png") as small:
        assert small.mode == "RGB"
        assert np.abs(np.asarray(small).astype(int) - pixels[..., :3]).max() <= 2


def test_a_rare_color_keeps_its_tone(compress, tmp_path, monkeypatch):
    pixels = np.full((64, 64, 4), 255, dtype=np.uint8)
    pixels[:, :60, :3] = np.arange(64 * 60).reshape(64, 60, 1) % 250  # grays, as of a CT
    pixels[:2, 60:, :3] = (213, 94, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(compress, "FIGURES", tmp_path)
    compress.main()
    with Image.open(tmp_path / "a.png") as small:
        assert small.mode == "P"
        moved = np.abs(np.asarray(small.convert("RGB")).astype(int) - pixels[..., :3])
    assert moved.max() <= 8
    before = (tmp_path / "a.png").read_bytes()
    compress.main()
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_wheel_holds_every_package():
    """Folders of modules under the four packages are those that setuptools is told of."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(("robustvox", *init.parent.relative_to(ROOT).parts))
        for package in ("attacks", "models", "datasets", "benchmark")
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert sorted(settings["packages"]) == sorted(folders)
