"""Mamba in pure PyTorch: the selective scan and the networks built on it."""
