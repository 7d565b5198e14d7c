"""What `evaluate` takes and gives back: arrays, tensors, MONAI's cases, bounds, overlapping labels, and its result."""

from __future__ import annotations

import html.parser

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data.dataloader import DataLoader
from monai.data.meta_tensor import MetaTensor
from torch import nn

from robustvox.attacks import FGSM, GN
from robustvox.benchmark import evaluate, score
from robustvox.datasets import IntensityWindow, Volume
from robustvox.models import MultiLabel, Normalized, SlidingWindow

SIDE = (9, 8, 7)


def volume(seed: int = 0) -> Volume:
    generator = np.random.default_rng(seed)
    label = np.zeros(SIDE, np.int16)
    label[2:6, 2:6, 2:5] = 1
    image = np.clip(np.where(label, 0.7, 0.3) + generator.normal(0, 0.05, SIDE), 0, 1).astype(np.float32)[
        None
    ]
    return Volume("a", image, label, (1.0, 1.0, 2.0), np.diag([1, 1, 2, 1.0]), IntensityWindow(0.0, 1.0))


class Bright(nn.Module):
    """Bright voxels are organ, with a bound of its own units."""

    def __init__(self, middle: float = 0.5, gain: float = 20.0) -> None:
        super().__init__()
        self.middle, self.gain = middle, gain
        self.dropout = nn.Dropout3d(0.9)
        self.norm = nn.BatchNorm3d(1)

    def forward(self, images):
        z = self.gain * (self.dropout(images) - self.middle)
        return torch.cat([-z, z], 1)


def run(data, network=None, **options):
    options = {"num_classes": 2, "roi_size": SIDE, **options}
    return evaluate({"m": network or Bright()}, {"fgsm": FGSM(eps=0.1)}, data, **options)


NUMBERS = ["dice_clean", "dice_adv", "hd95_adv_mm", "linf", "l2", "ssim"]


def numbers(result) -> list[float]:
    return result.table.loc[0, NUMBERS].astype(float).tolist()


def meta(array: np.ndarray, file: str = "") -> MetaTensor:
    return MetaTensor(
        torch.from_numpy(array),
        affine=torch.diag(torch.tensor([1, 1, 2, 1.0])),
        meta={"filename_or_obj": file},
    )


@pytest.mark.parametrize(
    "given",
    [
        lambda image, label: [(image, label)],
        lambda image, label: (image[0], label),
        lambda image, label: [(torch.from_numpy(image), torch.from_numpy(label)[None])],
        lambda image, label: {"image": image, "label": label},
        lambda image, label: {"a": (image, label)},
        lambda image, label: {"a": {"image": torch.from_numpy(image), "label": label}},
        lambda image, label: [{"image": meta(image, "x/a.nii.gz"), "label": meta(label[None])}],
        lambda image, label: DataLoader([{"image": meta(image, "x/a.nii.gz"), "label": meta(label[None])}]),
    ],
)
def test_every_way_to_give_a_case_gives_the_numbers_of_the_volume(given):
    one = volume()
    case = given(one.image, one.label)
    assert numbers(run(case, spacing_mm=(1, 1, 2))) == numbers(run([one]))


def test_batches_of_a_loader_are_taken_apart_and_named_by_their_files():
    cases = [
        {"image": meta(volume(k).image, f"/d/p{k}.nii.gz"), "label": meta(volume(k).label[None])}
        for k in (0, 1, 2)
    ]
    found = run(DataLoader(cases, batch_size=2))
    assert found.table.loc[0, "n_cases"] == 3
    attacked = found.per_case[found.per_case["attack"] != "none"]
    assert attacked["case"].tolist() == ["p0", "p1", "p2"]
    alone = run([cases[1]]).table
    row = attacked[attacked["case"] == "p1"].iloc[0]
    assert row["dice"] == alone.loc[0, "dice_adv"]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros((1, *SIDE)), {}, "expected cases, found ndarray of shape"),
        ([np.zeros((1, *SIDE))], {}, "expected an image and its label, found ndarray of shape .*give"),
        ([{"image": np.zeros(SIDE), "seg": np.zeros(SIDE)}], {}, "keys 'image' and 'label'.*'seg'.*keys="),
        ([(np.zeros(SIDE), np.zeros(SIDE, int))], {}, "case_000: expected the sides of a voxel.*spacing_mm"),
        ([(np.full(SIDE, 300.0), np.zeros(SIDE, int))], {"spacing_mm": (1, 1, 1), "bounds": (-175, 250)},
         r"bounds -175..250, found -175..300|found .*300; clip"),
        ([volume()], {"bounds": (1, 0)}, r"bounds as two numbers \(low, high\)"),
        ([volume()], {"bounds": 255}, r"bounds as two numbers \(low, high\)"),
        ([volume()], {"multilabel": "WT"}, "different names of labels"),
        ([volume()], {"multilabel": ("WT",)}, "either num_classes or multilabel"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_a_line(data, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(data, **options)
    assert "\n" not in str(caught.value)


def test_bounds_are_the_same_attack_in_other_units():
    """A network on HU with images in HU, against the same network written by hand for [0, 1]."""
    one = volume()
    low, high = -175.0, 250.0
    hounsfield = Bright(middle=low + 0.5 * (high - low), gain=20 / (high - low))
    image = one.image.astype(np.float64) * (high - low) + low
    found = run([(image, one.label)], hounsfield, spacing_mm=(1, 1, 2), bounds=(low, high))
    assert numbers(found) == pytest.approx(numbers(run([one])), abs=1e-6)
    assert found.table.loc[0, "linf"] == pytest.approx(0.1, abs=1e-6)
    own = SlidingWindow(hounsfield, SIDE)
    again = run([(image, one.label)], own, spacing_mm=(1, 1, 2), bounds=(low, high), roi_size=None)
    assert numbers(again) == numbers(found)
    assert own.network is hounsfield


def test_normalized_is_the_arithmetic_it_says():
    images = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64)
    found = Normalized(nn.Identity(), mean=(0.1, 0.2), std=(0.5, 0.25))(images)
    expected = torch.stack([(images[:, 0] - 0.1) / 0.5, (images[:, 1] - 0.2) / 0.25], 1)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="std above 0"):
        Normalized(nn.Identity(), 0.0, 0.0)
    with pytest.raises(ValueError, match="2 channels, one per mean and std, got 1"):
        Normalized(nn.Identity(), (0.1, 0.2), 1.0)(images[:, :1])
    network = nn.Identity()
    network.roi_size = (4, 4, 4)
    assert Normalized(network, 0.0, 1.0).roi_size == (4, 4, 4)


@pytest.mark.parametrize("broken", [False, True])
def test_networks_come_back_as_they_were(broken):
    network = Bright()
    network.train()
    network.norm.eval()
    before = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    if broken:
        network.middle = float("nan")
        with pytest.raises(ValueError, match="every case failed"):
            run([volume()], network)
    else:
        found = run([volume()], network)
        assert found.table.loc[0, "dice_clean"] > 0.9  # dropout was off
    assert [module.training for module in network.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


class Nested(nn.Module):
    """Two sigmoids: bright, and very bright, the second inside the first."""

    def forward(self, images):
        return torch.cat([20 * (images - 0.4), 20 * (images - 0.6)], 1)


def nested_case():
    generator = np.random.default_rng(3)
    whole = np.zeros(SIDE, bool)
    whole[1:7, 1:7, 1:6] = True
    core = np.zeros(SIDE, bool)
    core[2:5, 2:5, 2:4] = True
    image = np.clip(0.3 + 0.2 * whole + 0.3 * core + generator.normal(0, 0.04, SIDE), 0, 1).astype(np.float32)
    return image[None], np.stack([whole, core]).astype(np.uint8)


def test_overlapping_labels_are_scored_one_by_one():
    image, labels = nested_case()
    found = evaluate(
        {"m": Nested()},
        {"gn": GN(std=0.0), "fgsm": FGSM(eps=0.1)},
        [(image, labels)],
        multilabel=("whole", "core"),
        spacing_mm=(1, 1, 2),
        roi_size=SIDE,
    )
    rows = found.per_class[found.per_class["attack"].str.startswith("gn")].set_index("class_name")
    predicted = torch.sigmoid(Nested()(torch.from_numpy(image)[None]))[0].numpy() > 0.5
    for k, name in enumerate(("whole", "core")):
        expected = score(
            predicted[k].astype(int), labels[k].astype(int), num_classes=2, spacing_mm=(1.0, 1.0, 2.0)
        )
        assert rows.loc[name, "dice"] == expected.loc[0, "dice"]
        assert rows.loc[name, "hd95_mm"] == expected.loc[0, "hd95_mm"]
    table = found.table.set_index(found.table["attack"].str.partition(":")[0])
    assert table.loc["gn", "dice_adv"] == pytest.approx(rows["dice"].mean())
    assert table.loc["fgsm", "dice_adv"] < table.loc["gn", "dice_adv"] - 0.2
    assert sorted(set(found.per_class["class_name"])) == ["core", "whole"]


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_a_softmax_over_sets_is_the_product_of_sigmoids(labels):
    torch.manual_seed(labels)
    logits = torch.randn(2, labels, 3, 4, 5, dtype=torch.float64)
    head = MultiLabel(nn.Identity(), labels).double()
    truth = torch.randint(2, (2, labels, 3, 4, 5))
    sets = MultiLabel.classes(truth)
    binary = nn.functional.binary_cross_entropy_with_logits(logits, truth.double(), reduction="none").sum(1)
    assert torch.allclose(nn.functional.cross_entropy(head(logits), sets, reduction="none"), binary)
    assert torch.equal(head(logits).argmax(1), MultiLabel.classes((logits > 0).long()))
    with pytest.raises(ValueError, match=f"one logit for each of {labels} labels, got {labels + 1}"):
        head(torch.zeros(1, labels + 1, 2, 2, 2))


def test_the_result_shows_itself():
    name = "<b>&m"
    found = evaluate({name: Bright()}, {"fgsm": FGSM(eps=0.1)}, [volume()], num_classes=2, roi_size=SIDE)
    page = found._repr_html_()
    assert "<b>&m" not in page
    assert "&lt;b&gt;&amp;m" in page
    opened = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: opened.append((tag, dict(attrs)))
    parser.feed(page)
    assert "overflow-x" in opened[0][1]["style"]
    assert [tag for tag, _ in opened].count("table") == 1
    text = repr(found)
    assert max(map(len, text.splitlines())) <= 110
    assert f"{found.table.loc[0, 'dice_adv']:.2f}" in text
    assert isinstance(found["dice_adv"], pd.Series)
    assert found.plot().axes[0].get_yticklabels()
    assert found.failures == ()


def test_the_mean_of_the_cases_is_the_table():
    found = run(
        [
            volume(0),
            Volume(
                "b", *[getattr(volume(1), k) for k in ("image", "label", "spacing_mm", "affine", "window")]
            ),
        ]
    )
    attacked = found.per_case[found.per_case["attack"] != "none"]
    assert found.table.loc[0, "dice_adv"] == pytest.approx(attacked["dice"].mean())
    clean = found.per_case[found.per_case["attack"] == "none"]
    assert found.table.loc[0, "dice_clean"] == pytest.approx(clean["dice"].mean())
