"""The window fits the volume, and every parameter a spec accepts works or is refused in one line."""

from __future__ import annotations

import pytest
import torch

from robustvox.benchmark.plan.windows import choose_window, fitting, read_window
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import open_dataset


class Conv(torch.nn.Conv3d):
    """A network of any window, which it may declare."""

    def __init__(self, in_channels, num_classes, roi_size=None):
        super().__init__(in_channels, num_classes, 3, padding=1)
        if roi_size is not None:
            self.roi_size = roi_size


def anywhere(in_channels, num_classes):
    torch.manual_seed(0)
    return Conv(in_channels, num_classes)


def declared(in_channels, num_classes):
    torch.manual_seed(0)
    return Conv(in_channels, num_classes, roi_size=(10, 12, 14))


def halving(in_channels, num_classes, roi_size):
    """Takes multiples of 8 only, and says so when it is built."""
    if any(side % 8 for side in roi_size):
        raise ValueError(f"sides of {roi_size} must be multiples of 8")
    torch.manual_seed(0)
    return Conv(in_channels, num_classes)


def run(toy, capsys, model, *more):
    # The volumes of the toy folder are 18, 19 and 20 by 20 by 17 voxels.
    from robustvox.benchmark.cli import main

    code = main([
        "--no-report", "--model", model, "--attack", "gn:std=0", "--dataset", str(toy.folder), "--split", "all",
        "--cases", "1", "--out", str(toy.root / "out"), *more,
    ])  # fmt: skip
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("factory", "more", "line"),
    [
        ("anywhere", (), "window 20x16x15 by the volumes' size; volumes fill 90% of it"),
        ("halving", (), "window 24x16x16 by the volumes' size"),
        ("declared", (), "window 10x12x14 by the model; volumes fill 100% of it"),
        ("anywhere", ("--roi-size", "40"), "window 40x40x40 by --roi-size; volumes fill 7% of it"),
        ("declared", ("--roi-size", "40"), "its own window 10x12x14 is used, not 40x40x40 of --roi-size"),
        ("anywhere:roi_size=(24,24,32)", (), "window 24x24x32 by --roi-size"),
    ],
)
def test_the_window_of_a_factory(toy, capsys, monkeypatch, factory, more, line):
    monkeypatch.setattr("sys.path", [str(__file__).rpartition("/")[0], *__import__("sys").path])
    code, out, _ = run(toy, capsys, f"test_windows:{factory}", *more)
    assert code == 0
    assert line in " ".join(out.split())


def test_a_mostly_empty_window_says_what_to_do(toy, capsys, monkeypatch):
    monkeypatch.setattr("sys.path", [str(__file__).rpartition("/")[0], *__import__("sys").path])
    _, out, _ = run(toy, capsys, "test_windows:anywhere", "--roi-size", "40")
    assert "the rest is padding" in " ".join(out.split())
    assert "leave --roi-size out, or give a smaller one" in " ".join(out.split())
    code, out, _ = run(
        toy, capsys, "test_windows:anywhere", "--roi-size", "40", "--protocol", "robustvox-1:padding=edge"
    )
    assert code == 0
    records = list((toy.root / "out" / "toy" / "records").iterdir())
    assert any("padding" in path.name for path in records)


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ("unet:roi_size=(32,32,32)", 0, "window 32x32x32 by --roi-size"),
        ("unet:roi_size=32,num_classes=3,in_channels=1", 0, "window 32x32x32"),
        ("unet", 0, "by the volumes' size"),
        (
            "unet:num_classes=4",
            2,
            "expected unet for the 3 classes, background included, of toy, got num_classes=4",
        ),
        ("unet:in_channels=2", 2, "expected unet for the 1 image channel(s) of toy, got in_channels=2"),
        ("unet:roi_size=(32,32)", 2, "roi_size of unet as one or 3 positive whole numbers"),
        ("unet:roi_size=large", 2, "roi_size of unet as one or 3 positive whole numbers"),
        ("unet:roi_size=(20,32,32)", 2, "the nearest sizes that work are"),
        ("unet:channel=3", 2, "unet does not take these parameters"),
        ("unet:spatial_dims=2", 2, "spatial_dims"),
    ],
)
def test_window_channels_and_classes_behind_a_name(toy, capsys, spec, code, said):
    found, out, err = run(toy, capsys, spec, "--untrained")
    assert found == code
    assert said in " ".join((out + err).split())
    assert "Traceback" not in out + err


def test_training_takes_the_window_too(toy, capsys, tmp_path):
    from robustvox.benchmark.cli import main

    file = tmp_path / "out.safetensors"
    train = ["train", "--dataset", str(toy.folder), "--steps", "1", "--checkpoint", str(file)]
    assert main([*train, "--model", "unet:roi_size=(16,16,32),channels=(4,8),strides=(2,)"]) in (0, 2)
    assert main([*train, "--model", "unet:num_classes=5"]) == 2
    assert "got num_classes=5" in capsys.readouterr().err
    assert main([*train, "--model", "unet", "--roi-size", "9,9"]) == 2


def test_two_windows_are_two_models(toy, capsys):
    from ..first_form import rows_in  # this file is imported by its name alone too

    for size in ("16", "32"):
        run(toy, capsys, "unet", "--untrained", "--roi-size", size)
    files = (toy.root / "out" / "toy" / "records").glob("*/*/*.jsonl")
    rows = [row for file in files for row in rows_in(file)]
    # The clean image and the attacked one, each under two windows.
    assert len({row["unit"] for row in rows if row.get("kind") == "score"}) == 4


def test_sizes():
    assert fitting([(35, 51, 35)]) == (35, 51, 35)
    assert fitting([(1000, 20, 20)]) == (1000, 20, 20)
    assert max(fitting([(512, 512, 300)])) == 96
    assert read_window("96 x 96 x 64", "it") == (96, 96, 64)
    for wrong in ("", "0", "-3", "1,2", (1.5, 2, 2), None, True):
        with pytest.raises(UsageError, match="positive whole numbers"):
            read_window(wrong, "it")


def test_a_dataset_that_says_its_window_keeps_it():
    phantom = open_dataset("phantom")
    assert choose_window(phantom).sizes == (tuple(phantom.roi_size),)
    assert not choose_window(phantom).in_identity
