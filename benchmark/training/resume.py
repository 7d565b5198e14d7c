"""A training on its way: all that moves, and the file that keeps it, so that a stopped training goes on as if it had not.

The file is read with ``weights_only``: it holds tensors and plain values.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robustvox.models.window_memory import is_out_of_memory

from .recipe import Recipe, learning_rate
from .step import Gradients
from .watch import Watch
from .windows import WindowStream

_SECONDS = 60.0
"""Of work that a stopped training loses at most, where a step takes less."""


@dataclass(eq=False, kw_only=True)
class Run:
    """Everything that changes while a training goes on.

    Attributes:
        network, averaged: the weights that are trained, and their moving average.
        optimizer, schedule: of the weights.
        stream: where the windows come from.
        memory: what the defence keeps.
        gradients: computed so far.
        done: steps so far.
        seconds: that they took.
    """

    network: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.LambdaLR
    stream: WindowStream
    memory: dict[str, Tensor] = field(default_factory=dict)
    gradients: Gradients = field(default_factory=Gradients)
    done: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, network: nn.Module, stream: WindowStream, recipe: Recipe) -> Run:
        """Before the first step of a recipe."""
        optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        return cls(
            network=network,
            averaged=copy.deepcopy(network).eval().requires_grad_(False),
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, recipe)),
            stream=stream,
        )

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.network.parameters()).device


@dataclass(eq=False, kw_only=True)
class Resume:
    """The file of an unfinished training.

    Args:
        path: of the file; written beside itself and moved.
        identity: what was asked for; a file of anything else is left alone, and a new training starts.
        every: steps between two savings, where they take less than a minute.
        watch: what was seen on the way, which is kept too.
        saved: steps that the file has.
        saved_seconds: that they took.
    """

    path: Path
    identity: str
    every: int = 20
    watch: Watch | None = None
    saved: int = 0
    saved_seconds: float = 0.0

    def save(self, run: Run) -> None:
        """Keep the run if so many steps were done since the last time, or long ones."""
        if run.done - self.saved < self.every and run.seconds - self.saved_seconds < _SECONDS:
            return
        self.saved, self.saved_seconds = run.done, run.seconds
        state = {
            "identity": self.identity,
            "network": run.network.state_dict(),
            "averaged": run.averaged.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "stream": json.dumps(run.stream.state()),
            "memory": dict(run.memory),
            "gradients": asdict(run.gradients),
            "done": run.done,
            "seconds": run.seconds,
            "torch": torch.get_rng_state(),
            "watch": {} if self.watch is None else self.watch.state(),
        }
        if run.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(run.device)
        partial = self.path.with_name(f"{self.path.name}.partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def load(self, run: Run) -> None:
        """Bring a run to where its file left it; without a file, or with one of another training, leave it alone.

        Raises:
            ValueError: a file that is no state of a training.
        """
        if not self.path.is_file():
            return
        try:
            state = torch.load(self.path, map_location=run.device, weights_only=True)
            other = state["identity"] != self.identity
        except Exception as error:  # what is no state fails in any way, inside torch or after it
            if is_out_of_memory(
                error
            ):  # which says nothing about the file, and removing it would lose the work
                raise
            raise ValueError(
                f"expected the state of an unfinished training in {self.path.name}, found {type(error).__name__}; remove "
                "the file to start anew"
            ) from error
        if other:
            return
        run.network.load_state_dict(state["network"])
        run.averaged.load_state_dict(state["averaged"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.stream.restore(json.loads(state["stream"]))
        run.memory.update(state["memory"])
        run.gradients.outer, run.gradients.inner = state["gradients"]["outer"], state["gradients"]["inner"]
        run.done, run.seconds = state["done"], state["seconds"]
        run.schedule.last_epoch = self.saved = run.done
        self.saved_seconds = run.seconds
        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"].cpu(), run.device)
        if self.watch is not None:
            self.watch.restore(state["watch"])

    def remove(self) -> None:
        """The training is finished."""
        self.path.unlink(missing_ok=True)
