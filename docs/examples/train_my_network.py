import numpy as np
import torch
from monai.losses import DiceCELoss
from my_network import build

from robustvox.datasets import open_dataset

torch.manual_seed(0)
generator = np.random.default_rng(0)
phantom = open_dataset("phantom")  # procedural abdominal CT, nothing is downloaded
volumes = [phantom.load(case) for case in phantom.splits["train"][:16]]
ROI = (48, 32, 32)
network = build(1, len(phantom.class_names))
optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=400)
loss = DiceCELoss(to_onehot_y=True, softmax=True)

for step in range(400):
    images, labels = [], []
    for volume in generator.choice(volumes, 2):
        # A window somewhere, the axes never flipped: left is left.
        at = generator.integers(np.array(volume.label.shape) - ROI + 1)
        window = tuple(slice(a, a + roi) for a, roi in zip(at, ROI, strict=True))
        images.append(torch.from_numpy(volume.image[(slice(None), *window)]))
        labels.append(torch.from_numpy(volume.label[window].astype(np.int64))[None])
    optimizer.zero_grad()
    value = loss(network(torch.stack(images)), torch.stack(labels))
    value.backward()
    optimizer.step()
    schedule.step()
    if step % 100 == 99:
        print(f"step {step + 1}: loss {value.item():.2f}")
torch.save(network.state_dict(), "weights.pt")
