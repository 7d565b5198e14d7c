"""Self-supervised encoders of Swin UNETR: a start for training, not a target.

Source: Tang et al., Self-Supervised Pre-Training of Swin Transformers, CVPR 2022, arXiv 2111.14791 (5050 CT);
Valanarasu et al., Disruptive Autoencoders, arXiv 2307.16896 (50k). Both publish the transformer with heads of
their own tasks, under two different layouts of names.

Differs from MONAI's ``load_from`` and ``filter_swinunetr``: every weight of the encoder must be there, under its
name and with its shape; MONAI copies what it finds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..bring.weights import read_state
from ..checkpoint import load_strictly
from ..header import CheckpointError

PREFIX = "swinViT."
INDEX = "relative_position_index"
"""A table that follows from the window's size; some files lack it."""


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights of either layout under MONAI's present names, without the prefix ``swinViT.``.

    Example:
        >>> import torch
        >>> one = {"layers1.0.blocks.0.mlp.fc1.weight": torch.zeros(1), "rotation_head.weight": torch.zeros(1)}
        >>> other = {"encoder.layers1.0.0.blocks.0.mlp.linear1.weight": torch.zeros(1), "decoder.x": torch.zeros(1)}
        >>> list(encoder_state(one)), list(encoder_state(other))
        (['layers1.0.blocks.0.mlp.linear1.weight'], ['layers1.0.blocks.0.mlp.linear1.weight'])
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("module.").removeprefix(PREFIX).removeprefix("encoder.")
        name = re.sub(r"^(layers\d\.0\.)0\.(?=blocks|downsample)", r"\1", name)
        name = name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")
        if re.match(r"(patch_embed|layers\d)\.", name):
            renamed[name] = tensor
    return renamed


def load_ssl_encoder(network: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Put a published encoder into a Swin UNETR that is to be trained.

    Args:
        network: MONAI's ``SwinUNETR`` (of any number of classes) with a feature size of 48; only its encoder
            changes, decoder and head stay as they are.
        path: of the file.

    Returns:
        Names of the weights that were set. The network is no target before it is fine-tuned.

    Raises:
        CheckpointError: no encoder in the file, or one that is not exactly the network's.
    """
    encoder = getattr(network, "swinViT", None)
    if not isinstance(encoder, nn.Module):
        raise CheckpointError(f"expected a Swin UNETR, got {type(network).__name__}; build swin_unetr")
    path = Path(path)
    found = encoder_state(read_state(path))
    if not found:
        raise CheckpointError(
            f"expected an encoder of Swin UNETR in {path.name}, found none of its names; give the self-supervised file"
        )
    own = encoder.state_dict()
    tables = {key: tensor for key, tensor in own.items() if key.endswith(INDEX)}
    load_strictly(encoder, {**tables, **found}, path.name)
    return tuple(f"{PREFIX}{key}" for key in found)
