"""The recipes of docs/recipes.md as one program; `tests/test_docs_personas.py` runs it."""

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from robustvox.attacks import PGD
from robustvox.benchmark import evaluate
from robustvox.models import Normalized, SlidingWindow


# [monai]
def monai_cases(files, window=(-175, 250)):
    """Files to cases as your training has them; MetaTensors tell spacing, affine and the name of the file."""
    transforms = Compose(
        [
            LoadImaged(["image", "label"]),
            EnsureChannelFirstd(["image", "label"]),
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            Spacingd(["image", "label"], pixdim=(2.0, 2.0, 2.0), mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", window[0], window[1], 0, 1, clip=True),
        ]
    )
    return DataLoader(Dataset(files, transforms), batch_size=1)


def evaluate_with_monai(network, files, num_classes, roi_size):
    attacks = {"pgd": PGD(eps=8 / 255, steps=2)}
    return evaluate(
        {"mine": network}, attacks, monai_cases(files), num_classes=num_classes, roi_size=roi_size
    )


# [training]
def adversarial_step(network, optimizer, loss, images, labels):
    """A training step on attacked windows: the attack leaves mode, gradients and flags of the network alone."""
    attacked = PGD(eps=4 / 255, steps=2)(network, images, labels)
    optimizer.zero_grad()
    value = loss(network(attacked), labels)
    value.backward()
    optimizer.step()
    return value.item()


# [lightning]
def lightning_module():
    import lightning

    class Segmenter(lightning.LightningModule):
        """`validation_robust_dice` beside the clean one, at the end of every epoch."""

        def __init__(self):
            super().__init__()
            self.network = UNet(3, 1, 2, channels=(8, 16), strides=(2,), norm="instance")

        def forward(self, images):
            return self.network(images)

        def training_step(self, batch, _):
            return torch.nn.functional.cross_entropy(self(batch["image"]), batch["label"][:, 0])

        def validation_step(self, batch, _):
            # With Trainer(inference_mode=False): an attack needs gradients, of the image alone.
            with torch.enable_grad():
                attacked = PGD(steps=2)(self.network, batch["image"], batch["label"])
            found = self(attacked).argmax(1, keepdim=True)
            both = (found * batch["label"]).sum()
            self.log("validation_robust_dice", 2 * both / (found.sum() + batch["label"].sum()).clamp(min=1))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Segmenter()


# [torchmetrics]
def robust_dice(network, batches, num_classes):
    """Dice of torchmetrics on attacked volumes; any metric that takes predictions and labels goes the same way."""
    from torchmetrics.segmentation import DiceScore

    metric = DiceScore(num_classes, include_background=False, average="macro", input_format="index")
    for batch in batches:
        attacked = PGD(steps=2)(network, batch["image"], batch["label"])
        with torch.no_grad():
            metric.update(network(attacked).argmax(1), batch["label"][:, 0])
    return float(metric.compute())


# [amp]
class Autocast(torch.nn.Module):
    """A network in bfloat16; the attack around it stays float32."""

    def __init__(self, network, device_type="cpu"):
        super().__init__()
        self.network, self.device_type = network, device_type

    def forward(self, images):
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.network(images).float()


# [nifti]
def attack_one_file(network, image, label, roi_size):
    """One case of a MONAI dictionary, attacked and back as a MetaTensor with its affine."""
    predictor = SlidingWindow(network, roi_size)
    attacked = PGD(steps=2)(predictor, image[None].as_tensor(), label[None].as_tensor().long())
    return image.clone().copy_(attacked[0])


# [end]
def main(folder):
    import nibabel

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    label = np.zeros((20, 18, 16), np.uint8)
    label[5:15, 5:13, 4:12] = 1
    hounsfield = np.where(label, 120, -20) + rng.normal(0, 20, label.shape)
    for name, array in (("image", hounsfield.astype(np.float32)), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 2, 2.5, 1])), f"{folder}/{name}.nii.gz")
    files = [{"image": f"{folder}/image.nii.gz", "label": f"{folder}/label.nii.gz"}]
    network = Normalized(UNet(3, 1, 2, channels=(8, 16), strides=(2,), norm="instance"), mean=0.5, std=0.2)
    (batch,) = monai_cases(files)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(batch["image"]), batch["label"][:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    result = evaluate_with_monai(network, files, 2, (16, 16, 16))
    images, labels = batch["image"].as_tensor(), batch["label"].as_tensor().long()
    step = adversarial_step(
        network, optimizer, lambda z, y: torch.nn.functional.cross_entropy(z, y[:, 0]), images, labels
    )
    half = evaluate_with_monai(Autocast(network), files, 2, (16, 16, 16))
    one = attack_one_file(network, batch["image"][0], batch["label"][0], (16, 16, 16))
    return {"result": result, "step": step, "half": half, "one": one, "batch": batch, "network": network}
