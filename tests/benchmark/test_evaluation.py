"""The harness from Python: bare objects, every dataset, and that the numbers are what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from robustvox.attacks import ATTACKS, FGSM, GN, PGD, VAFA
from robustvox.benchmark import evaluate, score
from robustvox.benchmark.show.tables.results import COLUMNS
from robustvox.datasets import IntensityWindow, Volume, open_dataset
from robustvox.models import ZOO, SlidingWindow, load_checkpoint
from robustvox.models.cuda_graphs import CudaGraphs


class Threshold(nn.Module):
    """Bright voxels are organ: a network whose behaviour is known in closed form."""

    def forward(self, images):
        return torch.cat([0.5 - images, images - 0.5], 1) * 100


def bright_cube(case_id="a", margin=0.2, slab=False) -> Volume:
    label = np.zeros((12, 11, 9), np.int16)
    label[3:8, 3:8, 2:7] = 1
    image = np.where(label, 0.5 + margin, 0.5 - margin).astype(np.float32)[None]
    if slab:
        image[:, 9:] = 0.0
    return Volume(case_id, image, label, (1.0, 1.0, 2.0), np.eye(4), IntensityWindow(0.0, 1.0))


def test_closed_form_of_a_threshold_network():
    table = evaluate(
        {"threshold": Threshold()},
        {"weak": FGSM(eps=0.1, loss="ce"), "strong": FGSM(eps=0.3, loss="ce")},
        [bright_cube()],
        num_classes=2,
        roi_size=(8, 8, 8),
    ).table.set_index("attack")
    weak, strong = (next(i for i in table.index if i.startswith(n)) for n in ("weak", "strong"))
    assert tuple(["attack", *table.columns]) == ("attack", *(c for c in COLUMNS if c != "attack"))
    # Inside the margin nothing flips; beyond it every voxel does: the organ is lost, the background is organ.
    assert table.loc[weak, "dice_adv"] == 1.0
    assert table.loc[strong, "dice_adv"] == 0.0
    assert table.loc[strong, "linf"] == pytest.approx(0.3, abs=1e-6)
    assert table.loc[strong, "l2"] == pytest.approx(0.3 * np.sqrt(12 * 11 * 9), rel=1e-5)


def test_a_lost_organ_costs_the_diagonal():
    class Nothing(nn.Module):
        def forward(self, images):
            return torch.cat([images * 0 + 1, images * 0], 1)

    table = evaluate(
        {"blind": Nothing()}, {"gn": GN()}, [bright_cube()], num_classes=2, roi_size=(8, 8, 8)
    ).table
    assert table.loc[0, "hd95_adv_mm"] == pytest.approx(np.linalg.norm([12, 11, 18]))
    assert table.loc[0, "missing"] == 1
    assert table.loc[0, "dice_adv"] == 0.0


@pytest.mark.parametrize("name", ATTACKS)
def test_budget_in_the_table_is_that_of_the_scored_volume(name):
    kept = []

    class Spy(SlidingWindow):
        def forward(self, images):
            kept.append(images.detach().clone())
            return super().forward(images)

    short = {"steps": 4, "queries": 50}
    attack = ATTACKS[name]()
    attack = dataclasses.replace(attack, **{key: n for key, n in short.items() if hasattr(attack, key)})
    volume = bright_cube(slab=True)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)
    )
    table = evaluate(
        {"n": Spy(network, (8, 8, 8))}, {name: attack}, [volume], num_classes=2, roi_size=(8, 8, 8)
    ).table
    scored, clean = kept[-1].double(), torch.from_numpy(volume.image)[None].double()
    assert table.loc[0, "failed"] == 0
    assert torch.isfinite(scored).all()
    assert table.loc[0, "linf"] == pytest.approx(float((scored - clean).abs().max()), abs=1e-9)
    assert table.loc[0, "l2"] == pytest.approx(float((scored - clean).norm()), rel=1e-9)
    if attack.radius is not None:
        assert table.loc[0, "linf"] <= attack.radius


@pytest.mark.parametrize("renorm", ["none", "slice"])
def test_vafa_on_constant_slabs_stays_finite(renorm):
    volume = bright_cube(slab=True)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)
    )
    attack = VAFA(steps=4, block_size=8, renorm=renorm)
    table = evaluate({"n": network}, {"vafa": attack}, [volume], num_classes=2, roi_size=(8, 8, 8)).table
    assert table.loc[0, "failed"] == 0
    assert table[["dice_adv", "l2", "psnr", "ssim"]].notna().all(axis=None)


def test_a_network_that_breaks_becomes_a_failed_row():
    class Broken(nn.Module):
        def forward(self, images):
            return torch.full((images.shape[0], 2, *images.shape[2:]), torch.nan)

    table = evaluate(
        {"broken": Broken(), "fine": Threshold()},
        {"gn": GN()},
        [bright_cube()],
        num_classes=2,
        roi_size=(8, 8, 8),
    ).table.set_index("surrogate")
    assert table.loc["broken", "failed"] == 1
    assert table.loc["fine", "failed"] == 0
    assert table.loc["fine", "n_cases"] == 1


def test_interrupted_evaluations_continue(tmp_path):
    arguments = ({"t": Threshold()}, {"fgsm": FGSM(loss="ce")}, [bright_cube("a"), bright_cube("b")])
    first = evaluate(*arguments, num_classes=2, roi_size=(8, 8, 8), cases=["a"], store=tmp_path).table
    both = evaluate(*arguments, num_classes=2, roi_size=(8, 8, 8), store=tmp_path).table
    assert (first.loc[0, "n_cases"], both.loc[0, "n_cases"]) == (1, 2)


def test_without_a_window_the_volumes_decide():
    volumes = [bright_cube("a"), bright_cube("b")]
    shapes = []

    class Watching(Threshold):
        def forward(self, images):
            shapes.append(tuple(images.shape[2:]))
            return super().forward(images)

    table = evaluate({"t": Watching()}, {"gn": GN(std=0.0)}, volumes, num_classes=2).table
    assert table.loc[0, "dice_clean"] == 1.0
    assert (12, 11, 9) in shapes
    assert max(shapes) <= (12, 12, 12)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes"):
        evaluate({"t": Threshold()}, {"gn": GN()}, [bright_cube()])
    with pytest.raises(ValueError, match="at least one"):
        evaluate({}, {"gn": GN()}, [bright_cube()], num_classes=2, roi_size=(8, 8, 8))
    with pytest.raises(ValueError, match="volume"):
        evaluate({"t": Threshold()}, {"gn": GN()}, [], num_classes=2, roi_size=(8, 8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": [Threshold()]}, "models by name, {'mine': ...}, got list"),
        ({"models": {"m": "unet"}}, "models to be objects of torch.nn.modules.module.Module, got 'unet' as m"),
        ({"models": {"m": Threshold}}, "got the class Threshold as m; build it first"),
        ({"attacks": {"a": FGSM}}, "attacks to be objects of .*Attack, got the class FGSM as a"),
        ({"roi_size": (0, 8, 8)}, "roi_size as one or 3 positive whole numbers"),
        ({"roi_size": 7.5}, "roi_size as one or 3 positive whole numbers"),
        ({"num_classes": 1}, "num_classes of at least 2 .* got 1"),
        ({"num_classes": "2"}, "num_classes of at least 2 .* got '2'"),
    ],
)  # fmt: skip
def test_python_gets_the_reason(changes, message):
    given = {
        "models": {"m": Threshold()},
        "attacks": {"a": GN()},
        "data": [bright_cube()],
        "num_classes": 2,
        "roi_size": 8,
    }
    with pytest.raises(ValueError, match=message):
        evaluate(**{**given, **changes})
    # One number is a cube.
    assert evaluate(**given).table.loc[0, "n_cases"] == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (ZOO / "phantom").glob("*.safetensors")))
def test_every_zoo_model_segments_the_phantom(name):
    data = open_dataset("phantom")
    checkpoint = load_checkpoint(ZOO / "phantom" / f"{name}.safetensors", architecture=name)
    predictor = SlidingWindow(checkpoint.network, checkpoint.card.roi_size, sw_batch_size=4)
    volume = data.load("val_000")
    with torch.no_grad():
        prediction = predictor(torch.from_numpy(volume.image)[None]).argmax(1)[0].numpy()
    table = score(prediction, volume.label, num_classes=8, spacing_mm=volume.spacing_mm)
    assert table["dice"].mean() > 0.85


def test_a_predictor_of_the_callers_keeps_no_graphs(monkeypatch):
    """They would hold memory of the card that the evaluation computed on."""
    forgotten = []
    monkeypatch.setattr(CudaGraphs, "forget", lambda graphs: forgotten.append(graphs))
    network = load_checkpoint(ZOO / "phantom" / "unet.safetensors").network
    predictor = SlidingWindow(network, (32, 32, 32))
    data = open_dataset("phantom")
    evaluate({"mine": predictor}, {"gn": GN()}, data, cases=data.splits["validation"][:1])
    assert predictor.graphs in forgotten


def test_every_zoo_file_ships_and_is_small():
    files = sorted(ZOO.glob("*/*.safetensors"))
    assert {path.stem for path in files} >= {"unet", "segresnet", "unetr", "swin_unetr", "mamba_unet"}
    for path in files:
        assert path.stat().st_size <= (3 if path.parent.name == "phantom" else 6) * 2**20


@pytest.mark.slow
@pytest.mark.real_data
def test_pgd_on_real_mri_hurts_and_noise_does_not(data_root):
    data = open_dataset("hippocampus", data_root)
    network = load_checkpoint(ZOO / "hippocampus" / "unet.safetensors").network
    table = evaluate(
        {"unet": network},
        {"gn": GN(std=8 / 255), "pgd": PGD(steps=8)},
        data,
        cases=data.splits["validation"][:2],
    ).table
    gn, pgd = (table[table["attack"].str.startswith(n)].iloc[0] for n in ("gn", "pgd"))
    assert gn["dice_clean"] - gn["dice_adv"] < 0.03
    assert pgd["dice_clean"] - pgd["dice_adv"] > 0.15
    assert pgd["linf"] <= 8 / 255


@pytest.mark.slow
@pytest.mark.real_data
def test_pgd_is_at_least_as_strong_as_torchattacks_on_real_mri(data_root):
    torchattacks = pytest.importorskip("torchattacks")
    data = open_dataset("hippocampus", data_root)
    checkpoint = load_checkpoint(ZOO / "hippocampus" / "unet.safetensors")
    predictor = SlidingWindow(checkpoint.network, checkpoint.card.roi_size)
    ours, theirs = [], []
    for case in data.splits["validation"][:2]:
        volume = data.load(case)
        images = torch.from_numpy(volume.image)[None]
        labels = torch.from_numpy(volume.label.astype(np.int64))[None]
        steps = {"eps": 8 / 255, "alpha": 2 / 255, "steps": 8}
        for scores, adversarial in (
            (ours, PGD(**steps)(predictor, images, labels[None])),
            (theirs, torchattacks.PGD(predictor, random_start=True, **steps)(images, labels)),
        ):
            with torch.no_grad():
                prediction = predictor(adversarial).argmax(1)[0].numpy()
            scores.append(
                score(prediction, volume.label, num_classes=3, spacing_mm=volume.spacing_mm)["dice"].mean()
            )
    assert np.mean(ours) <= np.mean(theirs)


class Numb(nn.Module):
    """Fails on volumes that hold a voxel of exactly 0."""

    def forward(self, images):
        if bool((images == 0).any()):
            raise ValueError("expected no dark voxel, found one; brighten it")
        return torch.cat([0.5 - images, images - 0.5], 1) * 100


def test_python_gets_the_reason_of_every_failed_case():
    volumes = [bright_cube("bright"), bright_cube("dark", slab=True)]
    with pytest.warns(UserWarning, match="dark, .*expected no dark voxel"):
        table = evaluate(
            {"numb": Numb()}, {"gn": GN(std=0.0)}, volumes, num_classes=2, roi_size=(12, 11, 9)
        ).table
    assert table.loc[0, ["n_cases", "failed"]].tolist() == [1, 1]
    assert all("expected no dark voxel" in reason for reason in table.attrs["failures"])
    assert {reason.split(",")[0] for reason in table.attrs["failures"]} == {"dark"}


def test_when_all_cases_fail_the_call_raises():
    with pytest.raises(ValueError, match="every case failed: dark, .*expected no dark voxel"):
        evaluate(
            {"numb": Numb()},
            {"gn": GN(std=0.0)},
            [bright_cube("dark", slab=True)],
            num_classes=2,
            roi_size=(12, 11, 9),
        )


def test_equal_ids_and_volumes_of_another_range_are_refused():
    options = {"num_classes": 2, "roi_size": (8, 8, 8)}
    with pytest.raises(ValueError, match="an id of its own"):
        evaluate({"m": Threshold()}, {"gn": GN()}, [bright_cube("a"), bright_cube("a")], **options)
    bright = bright_cube("a")
    wide = Volume("a", bright.image * 255, bright.label, bright.spacing_mm, bright.affine, bright.window)
    with pytest.raises(ValueError, match=r"volume a: expected intensities in \[0, 1\], found 76.5..178.5"):
        evaluate({"m": Threshold()}, {"gn": GN()}, [wide], **options)
    assert evaluate({"m": Threshold()}, {"gn": GN()}, bright, **options).table.loc[0, "n_cases"] == 1
