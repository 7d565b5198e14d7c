"""TorchScript archives: a network as PyTorch's own restricted language, loaded without running any Python.

``torch.jit.load`` compiles the archive's TorchScript, which knows tensors and control flow but no Python. What it
still could do is read and write files through a few operators, or reach compiled classes of other libraries;
archives that name those, or hold anything but the members of a saved network, are refused before they are loaded.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256
from ..errors import ARCHIVE_FAILURES
from ..header import CheckpointError
from ..limits import require_memory, require_window
from .brought import BroughtModel
from .foreign import FAILURES, Foreign, describe

MEMBERS = re.compile(
    r"(data\.pkl|constants\.pkl|version|byteorder|\.data/serialization_id|\.format_version|\.storage_alignment"
    r"|(data|constants)/\d+|code/__torch__(/[\w/]+)?\.py(\.debug_pkl)?)"
)
"""What ``torch.jit.save`` writes below the folder of the archive's name."""

FORBIDDEN = re.compile(
    r"\b(from_file|torch\.save|torch\.load|torch\.classes|__setstate__|__getstate__|wait_stream|rpc_\w+)\b"
    r"|\bops\.(?!aten\b|prim\b)\w+"
)
"""Operators and classes that reach beyond tensors."""

MAX_CODE_BYTES = 20_000_000
OUTPUTS = ("logits", "probabilities")
TOLERANCE = 1e-3


class LogProbabilities(nn.Module):
    """A network that answers with probabilities, as one with logits: their logarithm, whose softmax they are.

    Args:
        network: maps ``(B, C, *roi)`` to probabilities ``(B, K, *roi)`` that sum to 1.

    Example:
        >>> network = LogProbabilities(nn.Softmax(1))
        >>> x = torch.randn(1, 3, 2, 2, 2)
        >>> torch.allclose(network(x).softmax(1), x.softmax(1), atol=1e-6)
        True
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        probabilities = self.network(images)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def load(
    path: Path,
    *,
    in_channels: int,
    num_classes: int,
    roi_size: Sequence[int],
    output: str = "logits",
) -> BroughtModel:
    """The network of a TorchScript archive.

    Args:
        path: file written by ``torch.jit.save``.
        in_channels: image channels of the data.
        num_classes: classes of the data.
        roi_size: window in voxels; the network is tried on it once.
        output: ``"logits"``, or ``"probabilities"`` for a network that ends in a softmax.

    Raises:
        CheckpointError: an archive with unexpected members or operators, one that cannot be loaded, a window or
            classes it does not have, probabilities where logits were promised or the other way round.
    """
    if output not in OUTPUTS:
        raise CheckpointError(f"expected output among {', '.join(OUTPUTS)}, got {output!r}")
    check_archive(path)
    require_window(tuple(roi_size), in_channels + num_classes, path.name)
    try:
        scripted: Any = torch.jit.load(path, map_location="cpu")
    except (*FAILURES, OSError) as error:
        raise CheckpointError(
            f"expected a TorchScript network in {path.name}, found: {describe(error)}; save it again"
        ) from error
    network: nn.Module = scripted.eval()
    _try(network, path.name, in_channels, num_classes, tuple(roi_size), output)
    if output == "probabilities":
        network = LogProbabilities(network)
    return BroughtModel(
        name=path.stem,
        sha256=file_sha256(path),
        roi_size=tuple(roi_size),
        network=Foreign(network, path.stem),
        notes=("TorchScript: its intensities must be those of the data, in [0, 1]",),
    )


def check_archive(path: Path) -> None:
    """Refuse an archive that holds or names anything but a network; nothing of it is run.

    Raises:
        CheckpointError: with the member or operator that was not expected.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            require_memory(sum(info.file_size for info in infos), f"reading {path.name}")
            roots = {info.filename.partition("/")[0] for info in infos}
            strange = [i.filename for i in infos if not MEMBERS.fullmatch(i.filename.partition("/")[2])]
            if len(roots) != 1 or strange:
                found = strange[0] if strange else ", ".join(sorted(roots))
                raise CheckpointError(
                    f"expected only the members of a TorchScript network in {path.name}, found {found[:100]!r}; "
                    "nothing was run: save it again with torch.jit.save"
                )
            names = [info.filename for info in infos]
            twice = sorted({name for name in names if names.count(name) > 1})
            # Two readers of one archive may see two: Python's here, which looks, and PyTorch's, which runs.
            if twice or archive.comment or min(info.header_offset for info in infos):
                found = f"{twice[0]} twice" if twice else "bytes before or after them"
                raise CheckpointError(
                    f"expected the members of a TorchScript network once and alone in {path.name}, found {found[:100]}; "
                    "nothing was run: save it again with torch.jit.save"
                )
            code = [info for info in infos if info.filename.endswith(".py")]
            if sum(info.file_size for info in code) > MAX_CODE_BYTES:
                raise CheckpointError(
                    f"expected at most {MAX_CODE_BYTES} bytes of code in {path.name}, found more; nothing was run"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is not what was saved")
            for info in code:
                hit = FORBIDDEN.search(archive.read(info).decode("utf-8", "replace"))
                if hit:
                    raise CheckpointError(
                        f"expected tensor operators alone in {path.name}, found {hit[0]} in {info.filename}; nothing "
                        "was run: bring it with a factory if you trust it"
                    )
    except CheckpointError:
        raise
    except ARCHIVE_FAILURES as error:
        raise CheckpointError(
            f"expected a complete TorchScript archive in {path.name}, found: {describe(error)}; copy it again"
        ) from error


def _try(
    network: nn.Module, name: str, in_channels: int, num_classes: int, roi_size: tuple[int, ...], output: str
) -> None:
    """One forward on one window: shapes cannot be asked of TorchScript without computing."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, in_channels, *roi_size), generator=generator)
    try:
        with torch.no_grad():
            logits = network(images)
    except FAILURES as error:
        raise CheckpointError(
            f"expected {name} to take a window (1, {in_channels}, {', '.join(map(str, roi_size))}), found: "
            f"{describe(error)}; give roi_size=(...) or the dataset it was trained on"
        ) from error
    expected = (1, num_classes, *roi_size)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise CheckpointError(
            f"expected logits of shape {expected} from {name}, found {found}; give the dataset it was trained on"
        )
    sums = logits.sum(1)
    normalized = bool((logits >= 0).all()) and bool((sums - 1).abs().max() < TOLERANCE)
    if normalized != (output == "probabilities"):
        found = "probabilities" if normalized else "logits"
        raise CheckpointError(f"expected {output} from {name}, found {found}; say output={found}")
