"""TotalSegmentator's nnU-Net folders as targets: one network, or an ensemble of its folds.

Source: Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 5 (2023), doi:10.1148/ryai.230024;
Isensee et al., nnU-Net, Nature Methods 18 (2021). The folder is read by
:mod:`robustvox.models.bring.nnunet`, which runs nothing of it; here come the resampling to the plan's spacing, the
original intensities and the class names, which TotalSegmentator's own tool adds.

Differs from the source: resampling is linear instead of cubic, and logits are resized instead of labels; no
mirroring. The tool's default of 1.5 mm is five networks for a fifth of the classes each: every folder is a target.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..bring.configuration import read_json
from ..bring.nnunet import load as load_folder
from ..header import CheckpointError
from .loaded import Loaded
from .target import Inference, InputSpec, Segmenter
from .weights import Origin, Weights, find_weights

ORIGIN = Origin(
    file="a trained-model folder (dataset.json, plans.json, fold_*) of TotalSegmentator v2 or of another nnU-Net v2",
    licence=(
        "Apache-2.0 for the tasks total and total_mr and most others; some tasks need a licence of their own (free "
        "for research), brain_aneurysm is CC BY-NC; see the tool's list for yours"
    ),
)


class NnUNetSegmenter(Segmenter):
    """A whole-volume nnU-Net predictor that makes its own windows.

    Args:
        predictor: maps ``(B, 1, *spatial)`` in original intensities to logits.
        channel_names: of the folder's dataset.json, background first.
    """

    whole_volume = True

    def __init__(self, predictor: nn.Module, channel_names: tuple[str, ...]) -> None:
        super().__init__()
        self.predictor = predictor
        self.channel_names = channel_names

    def windows(self, images: Tensor, channels: tuple[int, ...]) -> Tensor:
        return self.predictor(images)[:, channels]


def load(
    name: str,
    path: str | Path | None,
    *,
    fold: str | int = "0",
    checkpoint: str = "checkpoint_final.pth",
    inference: Inference | None = None,
) -> Loaded:
    """The model of a trained-model folder.

    Args:
        name: of the target, for messages.
        path: of the folder.
        fold: number or ``all``; ``0+1+2+3+4`` averages five.
        checkpoint: file in the fold's folder.
        inference: how its windows are combined.

    Raises:
        CheckpointError: no folder, or as :func:`robustvox.models.bring.nnunet.load`.
    """
    folder = find_weights(path, name, ORIGIN, folder=True)
    names = _names(folder)
    windows = inference or Inference()
    # The window (0, 1) leaves values as they are: original intensities come in.
    brought = load_folder(
        folder,
        in_channels=1,
        num_classes=len(names),
        fold=str(fold),
        checkpoint=checkpoint,
        overlap=windows.overlap,
        mode=windows.mode,
        sw_batch_size=windows.sw_batch_size,
        window=(0.0, 1.0),
    )
    unit = "HU" if _is_ct(folder) else "a.u."
    spacing = brought.spacing_mm
    if spacing is None or brought.predictor is None:
        raise CheckpointError(f"expected a spacing in the plan of {folder.name}, found none; repair it")
    spec = InputSpec(
        low=0.0,
        high=1.0,
        clip=False,
        unit=unit,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        roi_size=(brought.roi_size[0], brought.roi_size[1], brought.roi_size[2]),
        multiple=1,
        least=1,
    )
    state = {
        key: tensor for key, tensor in brought.predictor.state_dict().items() if isinstance(tensor, Tensor)
    }
    weights = Weights(name=brought.name, state=state, sha256=brought.sha256)
    notes = tuple(note for note in brought.notes if not note.startswith("read as nnU-Net"))
    brought.predictor.requires_grad_(False)
    return Loaded(
        segmenter=NnUNetSegmenter(brought.predictor, names), spec=spec, weights=weights, notes=notes
    )


def _names(folder: Path) -> tuple[str, ...]:
    labels = read_json(folder / "dataset.json").get("labels", {})
    plain = {key: value for key, value in labels.items() if isinstance(value, int)}
    if len(plain) != len(labels) or sorted(plain.values()) != list(range(len(labels))):
        raise CheckpointError(
            f"expected one class per voxel, numbered from 0, in dataset.json of {folder.name}, found {labels}; train "
            "it with plain labels"
        )
    return tuple(sorted(plain, key=lambda key: plain[key]))


def _is_ct(folder: Path) -> bool:
    meta = read_json(folder / "dataset.json")
    channels = meta.get("channel_names") or meta.get("modality") or {}
    return any(str(channel).upper() in ("CT", "NONORM") for channel in channels.values())
