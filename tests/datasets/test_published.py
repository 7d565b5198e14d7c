"""The published datasets: splits, and loaders on miniatures in the public layout and naming."""

from __future__ import annotations

from itertools import combinations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from robustvox.datasets import CaseError, Dataset, DatasetError, open_dataset
from robustvox.datasets.published import PUBLISHED

COUNTS = {
    "btcv": {"train": 18, "validation": 12},
    "acdc": {"train": 140, "validation": 20, "test": 40},
    "hecktor": {"train": 444, "validation": 79},
    "flare22": {"train": 50, "validation": 50},
}

MINIATURES = {
    "btcv": [
        ("BTCV/imagesTr/img0001.nii.gz", "BTCV/labelsTr/label0001.nii.gz", "img0001"),
        (
            "Abdomen/RawData/Training/img/img0040.nii.gz",
            "Abdomen/RawData/Training/label/label0040.nii.gz",
            "img0040",
        ),
    ],
    "acdc": [
        (
            "ACDC/imagesTr/patient090_frame04.nii.gz",
            "ACDC/labelsTr/patient090_frame04_gt.nii.gz",
            "patient090_frame04",
        ),
        (
            "ACDC/training/patient001/patient001_frame12.nii.gz",
            "ACDC/training/patient001/patient001_frame12_gt.nii.gz",
            "patient001_frame12",
        ),
    ],
    "hecktor": [("HECKTOR/ct/HMR-028_ct_trans.nii.gz", "HECKTOR/gtvt/HMR-028_gtvt_trans.nii.gz", "HMR-028")],
    "flare22": [
        (
            "FLARE22/imagesVal/FLARETs_0007_0000_resampled.nii.gz",
            "FLARE22/labelsVal/FLARETs_0007_resampled.nii.gz",
            "FLARETs_0007",
        ),
        (
            "FLARE22/imagesTr/FLARE22_Tr_0050_0000.nii.gz",
            "FLARE22/labelsTr/FLARE22_Tr_0050.nii.gz",
            "FLARE22_Tr_0050",
        ),
    ],
}

ROWS = [(name, *row) for name, rows in MINIATURES.items() for row in rows]


def awkward(kind: str, spacing=(2.0, 2.5, 4.0)) -> np.ndarray:
    """Affines as archives hold them: flipped, with swapped axes, oblique."""
    rotation = {
        "plain": np.eye(3),
        "flipped": np.diag([-1.0, -1.0, 1.0]),
        "swapped": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
        "oblique": _turn(20.0),
    }[kind]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = (-30.0, 17.5, 4.25)
    return affine


def _turn(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]])


def write_pair(root, image_name, label_name, affine, shape=(30, 26, 16), low=-1000.0, organ=90.0):
    """A body of 40 with an organ (class 1) in air; returns the world center of the organ."""
    label = np.zeros(shape, np.uint8)
    label[10:18, 8:15, 5:10] = 1
    image = np.full(shape, low, np.float32)
    image[3:27, 3:23, 2:14] = 40.0
    image[label == 1] = organ
    for name, array in ((image_name, image), (label_name, label)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), root / name)
    return world_center(label == 1, affine)


def world_center(mask, affine):
    return (affine @ np.array([*ndimage.center_of_mass(mask), 1.0]))[:3]


@pytest.mark.parametrize("name", COUNTS)
def test_splits_are_the_published_ones(name):
    splits = PUBLISHED[name]().splits
    assert {k: len(v) for k, v in splits.items()} == COUNTS[name]
    for one, other in combinations(splits.values(), 2):
        assert not {c.split("_frame")[0] for c in one} & {c.split("_frame")[0] for c in other}
    assert all(len(set(ids)) == len(ids) for ids in splits.values())


def test_acdc_has_two_frames_of_seventy_ten_and_twenty_patients():
    splits = PUBLISHED["acdc"]().splits
    patients = {name: [c[:10] for c in ids] for name, ids in splits.items()}
    assert {k: len(set(v)) for k, v in patients.items()} == {"train": 70, "validation": 10, "test": 20}
    assert all(v.count(p) == 2 for v in patients.values() for p in v)
    everyone = {int(p[7:]) for v in patients.values() for p in v}
    assert everyone == set(range(1, 101))


def test_hecktor_lacks_the_ids_the_archive_lacks():
    splits = PUBLISHED["hecktor"]().splits
    mda = {int(c[4:]) for ids in splits.values() for c in ids if c.startswith("MDA")}
    assert set(range(1, 202)) - mda == {2, 8, 9, 36}


@pytest.mark.parametrize(("name", "image", "label", "case"), ROWS)
@pytest.mark.parametrize("kind", ["flipped", "swapped", "oblique"])
def test_a_miniature_in_the_public_layout(tmp_path, name, image, label, case, kind):
    center = write_pair(tmp_path, image, label, awkward(kind))
    data = open_dataset(name, tmp_path)
    assert isinstance(data, Dataset)
    volume = data.load(case)
    assert volume.image.shape[1:] == volume.label.shape
    assert volume.image.min() >= 0.0
    assert volume.image.max() <= 1.0
    assert "".join(nib.aff2axcodes(volume.affine)) == ("PLS" if name == "hecktor" else "RAS")
    assert set(np.unique(volume.label)) == {0, 1}
    # Whatever was turned, resampled, cropped and padded: the organ stays where it is in the patient.
    np.testing.assert_allclose(world_center(volume.label == 1, volume.affine), center, atol=1.0)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), volume.spacing_mm, atol=1e-5)
    if name in ("btcv", "acdc"):
        assert volume.spacing_mm == (1.5, 1.5, 2.0)
    if name == "hecktor":
        assert volume.label.shape == (176, 176, 176)
    if name == "acdc":
        assert volume.label.shape == (96, 96, 96)
    else:
        assert volume.window.physical(8 / 255) == pytest.approx(13.33, abs=0.01)


def test_resampling_agrees_with_scipy(tmp_path):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(0, 2000, (20, 18, 12)), 2.0).astype(np.float32)
    write_pair(
        tmp_path,
        "BTCV/imagesTr/img0001.nii.gz",
        "BTCV/labelsTr/label0001.nii.gz",
        awkward("plain"),
        smooth.shape,
    )
    affine = awkward("flipped", (3.0, 3.0, 4.0))
    for folder, array in (
        ("imagesTr/img0001", smooth),
        ("labelsTr/label0001", (smooth > 50).astype(np.uint8)),
    ):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / "BTCV" / f"{folder}.nii.gz")
    volume = open_dataset("btcv", tmp_path).load("img0001")
    to_source = np.linalg.inv(affine) @ volume.affine
    grid = np.indices(volume.label.shape).reshape(3, -1)
    points = to_source[:3, :3] @ grid + to_source[:3, 3:]
    expected = ndimage.map_coordinates(smooth.astype(np.float64), points, order=1, mode="nearest")
    expected = np.clip((expected + 175.0) / 425.0, 0, 1).reshape(volume.label.shape)
    np.testing.assert_allclose(volume.image[0], expected, atol=1e-4)
    # Exactly between two voxels nearest may take either; everywhere else it is the nearest voxel's class.
    clear = (np.abs(points - np.floor(points) - 0.5) > 1e-3).all(axis=0)
    nearest = ndimage.map_coordinates((smooth > 50).astype(np.uint8), points, order=0, mode="nearest")
    np.testing.assert_array_equal(volume.label.ravel()[clear], nearest[clear])


def test_btcv_is_cropped_to_what_is_above_the_window(tmp_path):
    write_pair(
        tmp_path, "imagesTr/img0001.nii.gz", "labelsTr/label0001.nii.gz", awkward("plain", (1.5, 1.5, 2.0))
    )
    volume = open_dataset("btcv", tmp_path).load("img0001")
    assert volume.label.shape == (24, 20, 12)
    np.testing.assert_allclose(volume.affine[:3, 3], awkward("plain")[:3, 3] + [4.5, 4.5, 4.0], atol=1e-4)


def test_acdc_is_corrected_by_default_and_faithful_on_request(tmp_path):
    for case in ("patient089_frame01", "patient001_frame01"):
        write_pair(
            tmp_path,
            f"imagesTr/{case}.nii.gz",
            f"labelsTr/{case}_gt.nii.gz",
            awkward("plain"),
            low=0.0,
            organ=900.0,
        )
    corrected, published = (open_dataset("acdc", tmp_path, as_published=flag) for flag in (False, True))
    for case in ("patient089_frame01", "patient001_frame01"):
        volume = corrected.load(case)
        assert volume.image[0, 0, 0, 0] == 0.0
        assert volume.window.high == pytest.approx(900.0)
    train, validation = published.load("patient001_frame01"), published.load("patient089_frame01")
    assert validation.image[0, 0, 0, 0] == pytest.approx(175 / 425)
    assert train.image[0, 0, 0, 0] == 0.0
    assert train.image.max() == validation.image.max() == 1.0
    assert "window -175..250" in published.provenance["preprocessing"]
    assert "percentiles" in corrected.provenance["preprocessing"]


def test_hecktor_pads_with_air_and_on_request_with_water(tmp_path):
    write_pair(tmp_path, *MINIATURES["hecktor"][0][:2], awkward("plain"))
    assert open_dataset("hecktor", tmp_path).load("HMR-028").image[0, -1, -1, -1] == 0.0
    published = open_dataset("hecktor", tmp_path, as_published=True).load("HMR-028").image
    assert np.isclose(published, 175 / 425).mean() > 0.9


def test_flare22_depth_is_padded_alike_in_both_splits(tmp_path):
    write_pair(tmp_path, *MINIATURES["flare22"][0][:2], awkward("plain"))
    write_pair(tmp_path, *MINIATURES["flare22"][1][:2], awkward("plain"))
    data, published = (open_dataset("flare22", tmp_path, as_published=flag) for flag in (False, True))
    cases = ("FLARETs_0007", "FLARE22_Tr_0050")
    assert [data.load(c).label.shape[2] for c in cases] == [96, 96]
    assert [published.load(c).label.shape[2] for c in cases] == [96, 245]


def test_a_missing_case_is_refused_and_the_others_load(tmp_path):
    write_pair(tmp_path, *MINIATURES["btcv"][0][:2], awkward("plain"))
    data = open_dataset("btcv", tmp_path)
    with pytest.raises(
        CaseError, match=r"case img0002: expected the file imagesTr/img0002.nii.gz, found nothing"
    ):
        data.load("img0002")
    with pytest.raises(CaseError, match="no such id"):
        data.load("img0099")
    assert data.load("img0001").id == "img0001"


@pytest.mark.parametrize("name", COUNTS)
def test_nothing_there_says_where_to_register(tmp_path, name):
    with pytest.raises(DatasetError, match=r"expected .*register at .* and put "):
        open_dataset(name, tmp_path)
    with pytest.raises(DatasetError, match="ROBUSTVOX_DATA"):
        open_dataset(name)


def test_as_published_is_for_the_benchmarks_datasets(tmp_path):
    with pytest.raises(DatasetError, match="as_published"):
        open_dataset("phantom", as_published=True)


TOTALSEGMENTATOR = {1: 1, 2: 2, 3: 3, 4: 4, 15: 5, 5: 6, 6: 7, 52: 8, 63: 9, 64: 10, 7: 11, 8: 12, 9: 13}


@pytest.mark.real_data
def test_a_real_ct_as_a_btcv_case(data_root, tmp_path):
    source = data_root / "totalsegmentator_ct"
    if not (source / "ct.nii.gz").is_file():
        pytest.skip("no real CT: ROBUSTVOX_DATA holds no totalsegmentator_ct")
    seg = nib.load(source / "seg.nii.gz")
    table = np.zeros(256, np.uint8)
    table[list(TOTALSEGMENTATOR)] = list(TOTALSEGMENTATOR.values())
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "BTCV" / folder).mkdir(parents=True)
    (tmp_path / "BTCV/imagesTr/img0001.nii.gz").write_bytes((source / "ct.nii.gz").read_bytes())
    mapped = table[np.asarray(seg.dataobj)]
    nib.save(nib.Nifti1Image(mapped, seg.affine), tmp_path / "BTCV/labelsTr/label0001.nii.gz")
    volume = open_dataset("btcv", tmp_path).load("img0001")
    assert volume.spacing_mm == (1.5, 1.5, 2.0)
    assert set(np.unique(volume.label)) == set(range(14)) - {5}
    for organ in (1, 6, 8):
        stored = (mapped == organ).sum() * 27.0
        assert (volume.label == organ).sum() * 4.5 == pytest.approx(stored, rel=0.05)
        drift = world_center(volume.label == organ, volume.affine) - world_center(mapped == organ, seg.affine)
        # Organs leave through the top, where centers of the finer grid end up to half a 3 mm slice earlier.
        assert np.abs(drift).max() < 2.0
    liver = volume.window.invert(volume.image)[0][volume.label == 6]
    assert 40 < np.median(liver) < 180
