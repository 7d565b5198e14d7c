"""Volumetric segmentation architectures, the sliding-window predictor, checkpoints."""
