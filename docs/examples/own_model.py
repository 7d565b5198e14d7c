import torch
from monai.networks.nets.basic_unet import BasicUNet

from robustvox.models import Normalized


def basic_unet(in_channels, num_classes, checkpoint=None, width=8, mean=0.3, std=0.25):
    """What `--model own_model:basic_unet` builds; the parameters can be written behind the name."""
    features = (width, width, 2 * width, 4 * width, 8 * width, width)
    network = BasicUNet(in_channels=in_channels, out_channels=num_classes, features=features)
    if checkpoint is not None:
        network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return Normalized(network, mean, std)
