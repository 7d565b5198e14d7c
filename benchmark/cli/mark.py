"""The commands ``mark``, ``unlock`` and ``marking`` as typed; their work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Cases,
    Checkpoints,
    DataRoot,
    DatasetName,
    Device,
    Models,
    Out,
    ProtocolName,
    Split,
    Untrained,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of NIfTI files.")]
KeyFile = Annotated[Path, typer.Option("--key-file", metavar="FILE", help="The key: at least 16 bytes.")]
NewFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Another folder; file names are kept.")]


def mark(
    folder: Folder,
    key_file: KeyFile,
    out: NewFolder,
    model: Models = [],  # noqa: B006 - Typer copies it
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="DIR", help="Labels of the same names; default what the model predicts."
        ),
    ] = None,
    mark: Annotated[
        str, typer.Option("--mark", metavar="SPEC", help="Such as keyed_mark:support=outside,margin_mm=2.")
    ] = "keyed_mark",
    seal: Annotated[
        str,
        typer.Option(
            "--seal", metavar="sidecar|extension", help="CASE.seal beside the file, or in its header."
        ),
    ] = "sidecar",
    cipher: Annotated[
        str,
        typer.Option("--cipher", metavar="shake256-hmac|aes-256-gcm", help="The latter needs cryptography."),
    ] = "shake256-hmac",
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    device: Device = "auto",
    checkpoint: Checkpoints = None,
    untrained: Untrained = False,
) -> int:
    """Mark volumes so that models misread them; with several --model on all of them as one. Only the key undoes it."""
    from ..specs.requests import MarkRequest
    from .commands.mark import mark_folder

    return mark_folder(
        MarkRequest(
            folder=folder,
            models=tuple(model),
            key_file=key_file,
            out=out,
            labels=labels,
            mark=mark,
            seal=seal,
            cipher=cipher,
            dataset=dataset,
            data_root=data_root,
            device=device,
            checkpoints=tuple(checkpoint or ()),
            untrained=untrained,
        )
    )


def unlock(folder: Folder, key_file: KeyFile, out: NewFolder) -> int:
    """Give marked volumes back bit for bit. A wrong key, a changed file or a seal of another writes nothing."""
    from ..specs.requests import UnlockRequest
    from .commands.unlock import unlock_folder

    return unlock_folder(UnlockRequest(folder=folder, key_file=key_file, out=out))


def marking(
    model: Models = [],  # noqa: B006
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="NAME", help="Model that is only scored; may repeat."),
    ] = None,
    attacker: Annotated[
        list[str] | None,
        typer.Option(
            "--attacker", metavar="NAME", help="Model a remover is trained with. Default: the first --model."
        ),
    ] = None,
    mark: Annotated[
        list[str] | None,
        typer.Option("--mark", metavar="NAME", help="Mark of the study; may repeat. Default: all."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Keys that every case is marked with.")] = 3,
    pairs: Annotated[int, typer.Option("--pairs", help="Volumes a remover is trained on.")] = 16,
    remover_steps: Annotated[
        int, typer.Option("--remover-steps", help="Gradient steps of that training.")
    ] = 300,
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Split = "validation",
    cases: Cases = "4",
    protocol: ProtocolName = "robustvox-1",
    device: Device = "auto",
    checkpoint: Checkpoints = None,
    untrained: Untrained = False,
    out: Out = Path("results"),
) -> int:
    """The study of marks: what they do to models, what takes them off without the key, what they cost."""
    from ..specs.requests import MarkingRequest
    from .commands.marking import study_marks

    return study_marks(
        MarkingRequest(
            models=tuple(model),
            targets=tuple(target or ()),
            attackers=tuple(attacker or ()),
            marks=tuple(mark or ()),
            seeds=seeds,
            pairs=pairs,
            remover_steps=remover_steps,
            dataset=dataset,
            data_root=data_root,
            split=split,
            cases=cases,
            protocol=protocol,
            device=device,
            checkpoints=tuple(checkpoint or ()),
            untrained=untrained,
            out=out,
        )
    )
