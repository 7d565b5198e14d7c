"""Volumes and lists that lie: refused in one line, before memory or time is spent on them."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct

import nibabel as nib
import numpy as np
import pytest

from robustvox.datasets import CaseError, DatasetError, open_dataset


@pytest.fixture
def root(msd_folder):
    return msd_folder(1)


def image_of(root):
    return root / "imagesTr" / "case_000.nii.gz"


def change(root, at, kind, value):
    path = image_of(root)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(f"<{kind}", content, at, value)
    path.write_bytes(gzip.compress(bytes(content)))


def test_not_one_flipped_bit_of_a_gzip_stream_is_scored(root):
    """Python refuses what the checksum does not fit; a bit that changes no content may pass."""
    path = image_of(root)
    whole, before = path.read_bytes(), open_dataset(root).read("case_000").image
    rng, refused = random.Random(0), 0
    for _ in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
        try:
            found = open_dataset(root).read("case_000").image
        except CaseError:
            refused += 1
        else:
            assert gzip.decompress(bytes(content)) == gzip.decompress(whole)
            np.testing.assert_array_equal(found, before)
    assert refused > 40


def test_a_machine_short_of_memory_does_not_blame_the_file(root, monkeypatch):
    def allocate(*_, **__):
        raise MemoryError("Unable to allocate 40 GiB")

    monkeypatch.setattr("robustvox.datasets.nifti.read_image", allocate)
    with pytest.raises(MemoryError, match="40 GiB"):
        open_dataset(root).load("case_000")


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_stream_without_its_checksum_is_refused(root, cut):
    path = image_of(root)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CaseError, match="complete NIfTI"):
        open_dataset(root).load("case_000")


HEADERS = {
    "voxels in the header": (108, "f", 0.0, "vox_offset 0"),
    "an offset between bytes": (108, "f", 352.5, "vox_offset 352.5"),
    "no offset": (108, "f", float("nan"), "vox_offset nan"),
    "negative sides": (42, "h", -18, "image with voxels"),
    "bits of another type": (72, "h", 16, "64 bits per voxel of its type, found 16"),
    "an infinite slope": (112, "f", float("inf"), "finite slope"),
    "a header of two files": (344, "4s", b"ni1\0", "voxels lie in another file"),
    "another format": (344, "4s", b"\0\0\0\0", "another format"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_lie_are_refused_by_what_they_say(root, what):
    at, kind, value, message = HEADERS[what]
    change(root, at, kind, value)
    with pytest.raises(CaseError, match=message):
        open_dataset(root).load("case_000")


FOREIGN = {
    "GIFTI": b'<?xml version="1.0"?><GIFTI></GIFTI>',
    "MINC": b"CDF\x01" + bytes(400),
    "PAR/REC": b"# === DATA DESCRIPTION FILE ===\n",
    "AFNI": b"type = integer-attribute\n" + bytes(400),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "another format": nib.MGHImage(np.ones((4, 5, 6), np.int16), np.eye(4)).to_bytes(),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_formats_are_refused_by_name(root, what):
    image_of(root).write_bytes(FOREIGN[what])
    with pytest.raises(CaseError, match=what):
        open_dataset(root).load("case_000")


def test_memory_is_counted_before_it_is_taken_and_the_limit_can_be_raised(root, monkeypatch):
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "0.0001")
    with pytest.raises(CaseError, match=r"found a need of .* set ROBUSTVOX_MEMORY_GIB=1 to allow it"):
        open_dataset(root).load("case_000")
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "1")
    open_dataset(root).load("case_000")
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "much")
    with pytest.raises(DatasetError, match="positive number of GiB"):
        open_dataset(root).load("case_000")


def test_a_stream_that_unpacks_to_more_than_its_header_says_is_refused(root):
    path = image_of(root)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2 << 20)))
    with pytest.raises(CaseError, match="found more in"):
        open_dataset(root).load("case_000")


DOCUMENTS = {
    "deep": '{"labels": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep but readable": '{"labels": ' + "[" * 50 + "]" * 50 + "}",
    "a key twice": '{"labels": {"0": "a", "1": "b", "1": "c"}, "training": []}',
    "a number for a name": '{"labels": {"0": "a", "1": 5}, "training": [{"image": "a", "label": "b"}]}',
    "a list for a path": '{"labels": {"0": "a", "1": "b"}, "training": [{"image": [["a"]], "label": "b"}]}',
    "a long number": '{"labels": ' + "9" * 100_000 + "}",
    "too many classes": json.dumps({"labels": {str(k): f"c{k}" for k in range(2_000)}, "training": []}),
    "too many cases": json.dumps(
        {"labels": {"0": "a", "1": "b"}, "training": [{"image": "a", "label": "b"}] * 20_001}
    ),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_documents_that_lie_are_refused_in_one_line(root, what):
    (root / "dataset.json").write_text(DOCUMENTS[what])
    with pytest.raises(DatasetError, match="dataset.json") as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "put", [os.mkdir, lambda p: os.symlink("/dev/zero", p), os.mkfifo, lambda p: os.symlink(p, p)]
)
def test_what_is_no_file_is_not_read(root, put):
    path = root / "dataset.json"
    path.unlink()
    put(path)
    with pytest.raises(DatasetError, match="expected"):
        open_dataset(root)
