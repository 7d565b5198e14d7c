"""A complete job that takes a second: a toy folder and a checkpoint that fits it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.models import ModelCard, build_model, save_checkpoint

ARCHITECTURES = {
    "unet": {"size": "small", "channels": [4, 8], "num_res_units": 1},
    "segresnet": {"size": "small", "blocks_down": [1, 1], "blocks_up": [1]},
}


class ToyJob:
    """Runs the command line on a toy MSD folder with tiny networks."""

    def __init__(self, root: Path, folder: Path, session: Path) -> None:
        self.root, self.folder, self._session = root, folder, session
        self.checkpoints = {
            name: Path(shutil.copy(session / f"{name}.safetensors", root)) for name in ARCHITECTURES
        }

    def arguments(self, *more: str, models=("unet",), out: Path | None = None) -> list[str]:
        named = [a for m in models for a in ("--model", m, "--checkpoint", str(self.checkpoints[m]))]
        return [
            *named,
            *("--dataset", str(self.folder), "--split", "all", "--cases", "all"),
            *("--out", str(out or self.root / "results")),
            *more,
        ]

    def __call__(self, *more: str, models=("unet",), out: Path | None = None) -> int:
        # Pictures take longer than these jobs; a later --report wins.
        return main(["--no-report", *self.arguments(*more, models=models, out=out)])

    def recorded(self, *more: str, models=("unet",)) -> None:
        """What a call that ends with 0 leaves in an empty folder: computed by the first test that asks, then copied.

        For tests of what comes after a run, before they change the dataset. Who the results belong to is not copied:
        the folder of the dataset has another path in every test.
        """
        kept = self._session / " ".join((*models, *more)).replace("/", "_")
        results = self.root / "results"
        if not kept.is_dir():
            assert self(*more, models=models) == 0
            shutil.copytree(results, kept, ignore=shutil.ignore_patterns("source.json"))
            return
        shutil.copytree(kept, results)

    def table(self, out: Path | None = None, name: str = "white_box"):
        import pandas as pd

        return pd.read_csv((out or self.root / "results") / "toy" / f"{name}.csv", keep_default_na=False)


@pytest.fixture(scope="session")
def toy_session(tmp_path_factory) -> Path:
    """Folder with the checkpoints of every toy job, and with the results of runs that several tests begin with."""
    folder = tmp_path_factory.mktemp("toy")
    for seed, (name, arguments) in enumerate(ARCHITECTURES.items()):
        card = ModelCard(
            architecture=name,
            arguments=arguments,
            in_channels=1,
            class_names=("background", "one", "two"),
            roi_size=(16, 16, 16),
            dataset="toy",
            window="[0, 1]",
        )
        torch.manual_seed(seed)
        network = build_model(name, in_channels=1, num_classes=3, roi_size=(16, 16, 16), **arguments)
        save_checkpoint(folder / f"{name}.safetensors", network, card)
    return folder


@pytest.fixture
def few_patients(monkeypatch):
    """Intervals over fewer patients than are shown, for tests that compare them with what they are by hand."""
    monkeypatch.setattr("robustvox.benchmark.metrics.statistics.LEAST_UNITS", 1)


@pytest.fixture
def toy(tmp_path, msd_folder, toy_session) -> ToyJob:
    return ToyJob(tmp_path, msd_folder(3), toy_session)
