"""The ``train`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DataRoot, DatasetName, Device, Seed


def train(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME[:k=v,...]", help="Architecture; small by default.")
    ],
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.", min=1)] = 1000,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Windows per step.", min=1)] = 2,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.", min=0.0)] = 2e-3,
    adversarial: Annotated[
        str | None,
        typer.Option("--adversarial", metavar="ATTACK", help="Train on volumes attacked on the fly."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="Where to write; default models/zoo.")
    ] = None,
) -> int:
    """Train one network with the zoo's recipe and write its checkpoint."""
    from ..specs.requests import TrainRequest
    from .commands.train import train_model

    return train_model(
        TrainRequest(
            model=model,
            dataset=dataset,
            data_root=data_root,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            adversarial=adversarial,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
        )
    )
