"""Mamba in pure PyTorch: the selective scan and the networks built on it."""

from .block import Mamba
from .scan import selective_scan
from .tri import TriMamba
from .unet import MambaUNet

__all__ = ["Mamba", "MambaUNet", "TriMamba", "selective_scan"]
