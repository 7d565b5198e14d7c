import torch
from monai.networks.nets import UNet


def build(in_channels, num_classes, checkpoint=None):
    """A network of your own: windows (B, C, *roi) in [0, 1] to logits (B, K, *roi)."""
    network = UNet(3, in_channels, num_classes, channels=(16, 32, 64, 64), strides=(2, 2, 2), norm="instance")
    if checkpoint is not None:
        network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return network
