"""``mark`` and ``unlock`` as a person meets them: there and back, and nothing written that was not proven."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.seal import read_header

SECRET = "a key of many letters, 0123456789"


@pytest.fixture
def office(toy, tmp_path):
    """A folder of two volumes of different kinds, a key, and the toy's model."""
    folder = tmp_path / "volumes"
    folder.mkdir()
    for path in sorted((toy.folder / "imagesTr").iterdir())[:2]:
        shutil.copy(path, folder)
    source = nib.load(next(folder.iterdir()))
    whole = nib.Nifti1Image(
        np.asarray(source.dataobj).round().astype(">i2"), source.affine, nib.Nifti1Header(endianness=">")
    )
    whole.header.set_data_dtype(">i2")
    nib.save(whole, folder / "scanner.nii")
    (folder / "readme.txt").write_text("not a volume")
    (tmp_path / "key").write_text(SECRET + "\n")
    return Office(tmp_path, folder, toy)


class Office:
    def __init__(self, root: Path, folder: Path, toy) -> None:
        self.root, self.folder, self.toy = root, folder, toy

    def mark(self, *more: str, out="marked", key="key") -> int:
        model = ("--model", "unet", "--checkpoint", str(self.toy.checkpoints["unet"]))
        given = ("--key-file", str(self.root / key), "--out", str(self.root / out))
        quick = () if "--mark" in more else ("--mark", "keyed_mark:steps=2,alpha=8/255")
        return main(
            ["mark", str(self.folder), *model, "--dataset", str(self.toy.folder), *given, *quick, *more]
        )

    def unlock(self, source="marked", out="back", key="key") -> int:
        given = ("--key-file", str(self.root / key), "--out", str(self.root / out))
        return main(["unlock", str(self.root / source), *given])

    def volumes(self, folder: str) -> dict[str, bytes]:
        """Uncompressed content by name."""
        found = sorted((self.root / folder).glob("*.nii*"))
        return {
            p.name: gzip.decompress(p.read_bytes()) if p.name.endswith(".gz") else p.read_bytes()
            for p in found
        }

    def files(self, folder: str) -> dict[str, bytes]:
        return (
            {p.name: p.read_bytes() for p in (self.root / folder).iterdir()}
            if (self.root / folder).exists()
            else {}
        )


@pytest.mark.parametrize("seal", ["sidecar", "extension"])
def test_there_and_back(office, seal, capsys):
    before = office.files("volumes")
    assert office.mark("--seal", seal) == 0
    assert "3 marked, 0 already there, 0 refused" in capsys.readouterr().out
    marked = office.files("marked")
    names = {"case_000.nii.gz", "case_001.nii.gz", "scanner.nii"}
    seals = {"case_000.seal", "case_001.seal", "scanner.seal"} if seal == "sidecar" else set()
    assert set(marked) == names | seals
    for name in names:
        one, other = (nib.load(office.root / folder / name) for folder in ("volumes", "marked"))
        assert one.header.get_data_dtype() == other.header.get_data_dtype()
        np.testing.assert_array_equal(one.affine, other.affine)
        assert not np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    assert office.unlock() == 0
    assert "3 unlocked, 0 refused" in capsys.readouterr().out
    assert office.volumes("back") == office.volumes("volumes")
    assert office.files("volumes") == before
    assert office.files("marked") == marked
    # A second call finds all done.
    assert office.mark("--seal", seal) == 0
    assert "0 marked, 3 already there" in capsys.readouterr().out
    assert office.files("marked") == marked
    assert office.unlock() == 0


def test_a_wrong_key_a_changed_file_or_a_strange_seal_writes_nothing(office, capsys):
    assert office.mark() == 0
    (office.root / "other").write_text("another key of many letters")
    assert office.unlock(key="other") == 1
    assert capsys.readouterr().out.count("found a tag that does not fit") == 3
    assert not (office.root / "back").exists()
    folder = office.root / "marked"
    shutil.copy(folder / "case_000.seal", folder / "case_001.seal")
    (folder / "scanner.seal").unlink()
    first = folder / "case_000.nii.gz"
    content = bytearray(gzip.decompress(first.read_bytes()))
    content[-1] ^= 1
    first.write_bytes(gzip.compress(bytes(content)))
    assert office.unlock() == 1
    printed = capsys.readouterr().out
    assert printed.count("found another one or one that was changed") == 2
    assert "expected scanner.seal beside it" in printed
    assert "0 unlocked, 3 refused" in printed
    assert not (office.root / "back").exists()


def test_the_key_is_in_nothing_written_or_printed(office, capfd):
    assert office.mark() == 0
    assert office.mark("--seal", "extension", out="inside") == 0
    assert office.unlock() == 0
    assert office.unlock(key="volumes/readme.txt") == 2
    printed = capfd.readouterr()
    forms = [SECRET.encode(), SECRET.encode().hex().encode(), SECRET[:12].encode()]
    texts = [
        printed.out.encode(),
        printed.err.encode(),
        b"".join(map(bytes, office.volumes("inside").values())),
    ]
    for folder in ("marked", "inside", "back"):
        texts += office.files(folder).values()
        texts += office.volumes(folder).values()
    for text in texts:
        assert not any(form in text for form in forms)


def test_a_seal_says_what_the_mark_was_made_with(office):
    assert office.mark("--cipher", "shake256-hmac") == 0
    header = read_header((office.root / "marked" / "scanner.seal").read_bytes())
    assert header.case == "scanner"
    assert header.dtype == ">i2"
    assert header.note["mark"].startswith("keyed_mark:")
    assert header.note["model 0"].startswith("unet ")


def test_labels_keep_the_mark_off_the_organ(office):
    labels = office.toy.folder / "labelsTr"
    (office.folder / "scanner.nii").unlink()
    spec = "keyed_mark:steps=2,alpha=8/255,support=outside,margin_mm=1"
    assert office.mark("--labels", str(labels), "--mark", spec) == 0
    for name in ("case_000.nii.gz", "case_001.nii.gz"):
        one, other = (np.asarray(nib.load(office.root / f / name).dataobj) for f in ("volumes", "marked"))
        label = np.asarray(nib.load(labels / name).dataobj) > 0
        assert not (one != other)[label].any()
        assert (one != other)[~label].mean() > 0.5
    assert office.unlock() == 0
    assert office.volumes("back") == office.volumes("volumes")


@pytest.mark.parametrize("axes", ["LPS", "SRA"])
def test_files_of_other_axes_and_labels_of_yet_others(office, axes):
    """The mark is made along RAS and written along the file's own axes; labels may run along others again."""
    (office.folder / "scanner.nii").unlink()
    labels = office.root / "labels"
    labels.mkdir()
    for name in ("case_000.nii.gz", "case_001.nii.gz"):
        nib.save(turned(nib.load(office.folder / name), axes), office.folder / name)
        nib.save(turned(nib.load(office.toy.folder / "labelsTr" / name), "PIR"), labels / name)
    spec = "keyed_mark:steps=2,alpha=8/255,support=outside,margin_mm=1"
    assert office.mark("--labels", str(labels), "--mark", spec) == 0
    for name in ("case_000.nii.gz", "case_001.nii.gz"):
        one, other = (nib.load(office.root / folder / name) for folder in ("volumes", "marked"))
        assert nib.aff2axcodes(other.affine) == tuple(axes)
        moved = np.asarray(one.dataobj) != np.asarray(other.dataobj)
        label = np.asarray(turned(nib.load(labels / name), axes).dataobj) > 0
        assert label.any()
        assert not moved[label].any()
        assert moved[~label].mean() > 0.5
    assert office.unlock() == 0
    assert office.volumes("back") == office.volumes("volumes")


def turned(image, axes: str):
    wanted = nib.orientations.axcodes2ornt(tuple(axes))
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))


def test_one_bad_volume_does_not_stop_the_others(office, capsys):
    whole = (office.folder / "case_000.nii.gz").read_bytes()
    (office.folder / "case_000.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert office.mark() == 1
    printed = capsys.readouterr().out
    assert "refused case_000.nii.gz: case case_000: expected a complete NIfTI file" in printed
    assert "2 marked, 0 already there, 1 refused" in printed
    assert "Traceback" not in printed


def test_half_a_pair_is_never_written_over(office, capsys):
    assert office.mark() == 0
    (office.root / "marked" / "scanner.nii").unlink()
    seal = (office.root / "marked" / "scanner.seal").read_bytes()
    assert office.mark() == 1
    assert "it may be the only way back" in capsys.readouterr().out
    assert (office.root / "marked" / "scanner.seal").read_bytes() == seal
    shutil.copy(office.folder / "scanner.nii", office.root / "marked")
    assert office.mark() == 1
    assert "expected no other file at scanner.nii" in capsys.readouterr().out


def test_mistakes_are_one_line(office, capsys):
    def error(call) -> str:
        assert call == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "expected another folder as --out" in error(office.mark(out="volumes"))
    assert "expected a readable file at nowhere" in error(office.mark(key="nowhere"))
    (office.root / "short").write_text("short")
    assert "at least 16 bytes, got 5" in error(office.mark(key="short"))
    assert "expected --mark keyed_mark" in error(office.mark("--mark", "pgd"))
    assert "keyed_mark has no parameter 'epz'" in error(office.mark("--mark", "keyed_mark:epz=1"))
    assert "unknown --seal" in error(office.mark("--seal", "wax"))
    assert "unknown --cipher" in error(office.mark("--cipher", "xor"))
    assert "expected a folder as --labels" in error(office.mark("--labels", str(office.root / "no")))
    assert "expected .nii or .nii.gz files" in error(office.unlock(source="toy"))
    assert "expected a folder of NIfTI files" in error(office.unlock(source="nothing"))
    shutil.copy(office.folder / "scanner.nii", office.folder / "case_000.nii")
    assert "expected one file per case, found case_000.nii" in error(office.mark())
    assert not (office.root / "marked").exists()


@pytest.mark.real_data
def test_a_real_volume_is_misled_and_comes_back(data_root, tmp_path, capsys):
    folder = tmp_path / "volumes"
    folder.mkdir()
    task = data_root / "Task04_Hippocampus"
    shutil.copy(task / "imagesTr" / "hippocampus_019.nii.gz", folder)
    (tmp_path / "key").write_text(SECRET)
    given = ["--key-file", str(tmp_path / "key"), "--out"]
    model = ["--model", "unet", "--dataset", "hippocampus", "--data-root", str(data_root)]
    spec = ["--mark", "keyed_mark:steps=4", "--labels", str(task / "labelsTr")]
    assert main(["mark", str(folder), *model, *spec, *given, str(tmp_path / "marked")]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if "hippocampus_019" in line)
    assert float(row[1]) > 0.8
    assert float(row[2]) < float(row[1]) - 0.08
    assert main(["unlock", str(tmp_path / "marked"), *given, str(tmp_path / "back")]) == 0
    name = "hippocampus_019.nii.gz"
    one, other = (gzip.decompress((tmp_path / f / name).read_bytes()) for f in ("volumes", "back"))
    assert one == other
