"""nnU-Net's raw layout and CSV lists, and what real archives do wrong in them."""

from __future__ import annotations

import gzip
import json
import struct

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.plan.cases import load_dataset
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import CaseError, DatasetError, open_dataset

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def pair(seed=0, shape=(12, 13, 9)):
    label = np.zeros(shape, np.uint8)
    label[3:6, 3:8, 2:6] = 1
    label[7:10, 3:8, 2:6] = 2
    image = np.random.default_rng(seed).normal(40, 5, shape).astype(np.float32) + 50.0 * label
    return image, label


@pytest.fixture
def nnunet(tmp_path):
    """A raw folder of four cases with two channels."""
    root = tmp_path / "Dataset501_Toy"
    for n in range(4):
        image, label = pair(n)
        save(root / "imagesTr" / f"toy_{n:03d}_0000.nii.gz", image)
        save(root / "imagesTr" / f"toy_{n:03d}_0001.nii.gz", image * 9.0 + 1.0)
        save(root / "labelsTr" / f"toy_{n:03d}.nii.gz", label)
    meta = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "two": 2, "one": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(meta))
    return root


@pytest.fixture
def table(tmp_path):
    """A CSV of four cases in a folder of its own."""
    for n in range(4):
        image, label = pair(n)
        save(tmp_path / "list" / "scans" / f"p{n}.nii.gz", image)
        save(tmp_path / "list" / "masks" / f"p{n}.nii.gz", label)
    path = tmp_path / "list" / "cohort.csv"
    path.write_text("image,label\n" + "".join(f"scans/p{n}.nii.gz,masks/p{n}.nii.gz\n" for n in range(4)))
    return path


def edit(path, **changes):
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, **changes}))


def test_nnunet_raw_is_a_dataset(nnunet):
    data = open_dataset(nnunet)
    assert data.name == "dataset501_toy"
    assert data.class_names == ("background", "one", "two")
    assert data.in_channels == 2
    assert sorted([*data.splits["train"], *data.splits["validation"]]) == [f"toy_{n:03d}" for n in range(4)]
    volume = data.load("toy_002")
    assert volume.image.shape == (2, 12, 13, 9)
    np.testing.assert_allclose(volume.image[0], volume.image[1], atol=1e-5)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(volume.label, pair(2)[1][::-1, ::-1])


def test_nnunet_ct_is_windowed(nnunet):
    for n in range(4):
        (nnunet / "imagesTr" / f"toy_{n:03d}_0001.nii.gz").unlink()
    edit(nnunet / "dataset.json", channel_names={"0": "CT"})
    assert open_dataset(nnunet).load("toy_000").window.unit == "HU"


def test_nnunet_split_file_and_its_overlap(nnunet):
    fold = {"train": ["toy_000", "toy_001"], "val": ["toy_001", "toy_002", "toy_009"]}
    (nnunet / "splits_final.json").write_text(json.dumps([fold]))
    data = open_dataset(nnunet)
    assert data.splits["validation"] == ("toy_001", "toy_002", "toy_009")
    with pytest.raises(
        CaseError, match="case toy_001: expected a case of one split, found it in train and validation"
    ):
        data.load("toy_001")
    with pytest.raises(CaseError, match="case toy_009: expected the file"):
        data.load("toy_009")
    data.load("toy_002")


def test_nnunet_channels_must_share_a_grid(nnunet):
    image, _ = pair()
    save(nnunet / "imagesTr/toy_000_0001.nii.gz", image[:-1])
    save(nnunet / "imagesTr/toy_001_0001.nii.gz", image, AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 0.5)
    (nnunet / "imagesTr/toy_002_0001.nii.gz").unlink()
    data = open_dataset(nnunet)
    for case, message in (
        ("toy_000", "one shape"),
        ("toy_001", "all channels"),
        ("toy_002", "nothing there"),
    ):
        with pytest.raises(CaseError, match=message):
            data.load(case)
    data.load("toy_003")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions"),
        ({"labels": {"background": 0, "one": 2}}, "without gaps"),
        ({"channel_names": {"1": "CT"}}, "channel_names"),
        ({"file_ending": ".png"}, "file_ending"),
    ],
)
def test_nnunet_that_cannot_be_used(nnunet, changes, message):
    edit(nnunet / "dataset.json", **changes)
    with pytest.raises(DatasetError, match=message):
        open_dataset(nnunet)


def test_csv_is_a_dataset(table):
    data = load_dataset(str(table), None)
    assert data.name == "cohort"
    assert data.class_names == ("background", "class_1", "class_2")
    assert len(data.splits["validation"]) == 1
    volume = data.load("p1")
    assert volume.image.shape == (1, 12, 13, 9)
    np.testing.assert_array_equal(volume.label, pair(1)[1][::-1, ::-1])


def test_csv_with_split_ids_channels_and_names(table):
    table.write_text(
        "id,image,label,split\n"
        "a,scans/p0.nii.gz;scans/p1.nii.gz,masks/p0.nii.gz,train\n"
        "b,scans/p2.nii.gz;scans/p3.nii.gz,masks/p2.nii.gz,val\n"
    )
    side = {"labels": {"0": "background", "1": "x", "2": "y"}, "channels": ["T1", "T2"]}
    table.with_suffix(".json").write_text(json.dumps(side))
    data = open_dataset(table)
    assert (data.splits["train"], data.splits["validation"]) == (("a",), ("b",))
    assert data.class_names == ("background", "x", "y")
    assert data.load("b").image.shape[0] == 2


def test_csv_duplicates_and_overlaps_are_refused_and_the_rest_goes_on(table):
    row = "scans/p{0}.nii.gz,masks/p{0}.nii.gz,{1}\n"
    rows = [(0, "train"), (0, "train"), (1, "train"), (1, "validation"), (2, "validation")]
    table.write_text("image,label,split\n" + "".join(row.format(*r) for r in rows))
    data = open_dataset(table)
    for case in ("p0", "p1"):
        with pytest.raises(CaseError, match=f"case {case}: expected one row per case, found 2 in cohort.csv"):
            data.load(case)
    data.load("p2")


@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/hostname", "scans/../../secret.nii.gz", "a\0b"])
def test_csv_paths_stay_in_its_folder(table, path):
    save(table.parent.parent / "secret.nii.gz", pair()[0])
    table.write_text(f"id,image,label\nx,{path},masks/p0.nii.gz\ny,scans/p1.nii.gz,masks/p1.nii.gz\n")
    data = open_dataset(table)
    with pytest.raises(CaseError, match=r"case x: expected a file"):
        data.load("x")
    data.load("y")


@pytest.mark.parametrize(
    "text", ["", "image,label\n", "picture,label\na,b\n", "image,label\na\n", "\xff\xfe"]
)
def test_csv_that_is_none(table, text):
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match="expected"):
        open_dataset(table)
    with pytest.raises(UsageError):
        load_dataset(str(table), None)


def zero_spacing(path):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[88:92] = struct.pack("<f", 0.0)  # pixdim[3]; nibabel would load it as 1
    path.write_bytes(gzip.compress(bytes(raw)))


def huge_values(path):
    save(path, np.full((12, 13, 9), 1e300))


def flat_affine(path):
    array = np.asarray(nib.load(path).dataobj)
    image = nib.Nifti1Image(array, None)
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nib.save(image, path)


def terabytes(path):
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 3000))
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4))


def cine(path):
    image = np.asarray(nib.load(path).dataobj)
    save(path, np.stack([image] * 5, axis=-1))


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


FAULTS = {
    "zero spacing": ("scans", zero_spacing, "positive voxel spacing"),
    "beyond float32": ("scans", huge_values, "finite intensities"),
    "flat affine": ("scans", flat_affine, "spans three dimensions|positive voxel spacing"),
    "terabytes": ("scans", terabytes, "30000"),
    "0 bytes": ("masks", lambda p: p.write_bytes(b""), "0 bytes"),
    "truncated": ("scans", truncated, "complete NIfTI"),
    "4-D image": ("scans", cine, r"3-D image with 1 channel\(s\), found shape \(12, 13, 9, 5\)"),
    "4-D label": ("masks", cine, "image's shape"),
    "shape": ("masks", lambda p: save(p, pair()[1][:, 1:]), "image's shape"),
    "affine": ("masks", lambda p: save(p, pair()[1], np.diag([1.0, 1.0, 2.0, 1.0])), "one affine"),
    "unknown label": ("masks", lambda p: save(p, pair()[1] * 5), r"labels in 0\.\.2, found 0\.\.10"),
    "half labels": ("masks", lambda p: save(p, pair()[1] * np.float32(0.5)), "whole class ids"),
    "no voxels": (
        "scans",
        lambda p: save(p, pair()[0][:0]),
        "image with voxels|3-D image",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_case_is_refused_and_the_rest_loads(table, fault):
    side = {"labels": {"0": "background", "1": "x", "2": "y"}, "channels": ["MRI"]}
    table.with_suffix(".json").write_text(json.dumps(side))
    folder, break_it, message = FAULTS[fault]
    break_it(table.parent / folder / "p1.nii.gz")
    data = open_dataset(table)
    with pytest.raises(CaseError, match=message) as caught:
        data.load("p1")
    assert str(caught.value).startswith("case p1: expected ")
    assert "; " in str(caught.value)
    data.load("p2")


def test_labels_stored_as_floats_with_rounding_noise_are_whole(table):
    path = table.parent / "masks/p1.nii.gz"
    noise = np.random.default_rng(0).uniform(-1e-4, 1e-4, pair(1)[1].shape)
    save(path, pair(1)[1] + noise)
    label = open_dataset(table).load("p1").label
    assert np.issubdtype(label.dtype, np.integer)
    np.testing.assert_array_equal(label, pair(1)[1][::-1, ::-1])


def test_kept_ids_become_classes_in_their_order(table):
    table.with_suffix(".json").write_text(
        json.dumps({"channels": ["CT"], "keep": {"2": "liver", "7": "spleen"}})
    )
    data = open_dataset(str(table))
    assert data.class_names == ("background", "liver", "spleen")
    case = data.splits["all"][0]
    _, label = pair(0)
    # The files run to the left and to the back; volumes are turned to RAS.
    np.testing.assert_array_equal(data.load(case).label, (label == 2)[::-1, ::-1].astype(np.int16))
    assert data.provenance["labels"] == "of the files: 2 liver, 7 spleen"


@pytest.mark.parametrize("keep", [{}, {"0": "a"}, {"x": "a"}, ["a"], {"1": "a", "2": "a"}])
def test_a_wrong_list_of_kept_ids_is_refused(table, keep):
    table.with_suffix(".json").write_text(json.dumps({"keep": keep}))
    with pytest.raises(DatasetError, match='expected ("keep"|a name of its own)'):
        open_dataset(str(table))
