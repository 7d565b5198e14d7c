"""Weights of a published target: the user's own file, read without running anything, loaded strictly by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..bring.weights import read_state
from ..checkpoint import file_sha256, load_strictly
from ..cpu import with_contiguous_gradients
from ..header import CheckpointError
from ..norms import with_own_norms

COUNTERS = ".num_batches_tracked"
"""Training counters of batch norm, which files before PyTorch 0.4.1 lack and no evaluation reads."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights of a target come from and what may be done with them.

    Args:
        file: what the file is, and who publishes it.
        licence: its terms, printed before a run and stored with its records. Where sources disagree, all of them.
    """

    file: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What was read of a file.

    Args:
        name: of the file, without its folder.
        state: tensors by their published names.
        sha256: of the file.
    """

    name: str
    state: Mapping[str, Tensor]
    sha256: str

    def report(self) -> str:
        """How many tensors and values of which type, for people to compare with the publication.

        Example:
            >>> import torch
            >>> Weights(name="a.pt", state={"w": torch.zeros(2, 3)}, sha256="0f" * 32).report()
            '1 tensors, 6 values, float32, sha256 0f0f0f0f0f0f'
        """
        values = sum(t.numel() for t in self.state.values())
        kinds = sorted({str(t.dtype).removeprefix("torch.") for t in self.state.values()})
        return (
            f"{len(self.state)} tensors, {values:,} values, {' and '.join(kinds)}, sha256 {self.sha256[:12]}"
        )


def find_weights(path: str | Path | None, target: str, origin: Origin, *, folder: bool = False) -> Path:
    """The user's file, or folder, of a target.

    Raises:
        CheckpointError: there is none; says where it comes from and under which licence.
    """
    kind = "folder" if folder else "file"
    found = None if path is None else Path(path).expanduser()
    if found is None or not (found.is_dir() if folder else found.is_file()):
        what = "none given" if path is None else f"no {kind} at {path}"
        raise CheckpointError(
            f"expected the weights of {target} ({origin.file}; licence: {origin.licence}), found {what}; obtain "
            f"them and give --checkpoint {kind.upper()}"
        )
    return found


def read_weights(path: str | Path | None, target: str, origin: Origin) -> Weights:
    """Read the user's file.

    Args:
        path: of the file; None where the user gave none.
        target: key of the catalog, for messages.
        origin: where such a file comes from.

    Raises:
        CheckpointError: no file (says where it comes from and under which licence), or one that holds more than
            tensors and numbers.
    """
    file = find_weights(path, target, origin)
    return Weights(name=file.name, state=read_state(file), sha256=file_sha256(file))


def load_by_name(network: nn.Module, weights: Weights, *, unused: tuple[str, ...] = ()) -> nn.Module:
    """Give a network exactly the weights of a file, or none at all.

    Args:
        network: changed in place and returned in eval mode, without gradients of its parameters.
        weights: of the file.
        unused: beginnings of names that the file may have and the network does not need.

    Raises:
        CheckpointError: missing, renamed, extra, misshapen or non-finite weights.
    """
    expected = network.state_dict()
    counters = {key: tensor for key, tensor in expected.items() if key.endswith(COUNTERS)}
    needed = {
        key: tensor
        for key, tensor in weights.state.items()
        if key in expected or not key.startswith(unused or ("\0",))
    }
    load_strictly(network, {**counters, **needed}, weights.name)
    return with_contiguous_gradients(with_own_norms(network)).eval().requires_grad_(False)
