"""Saved adversarial volumes: what comes back is what was scored, and what does not belong is refused."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.benchmark.records.volumes import Note, SavedVolume, read_note, save_adversarial
from robustvox.datasets import CaseError, ChannelWindows, IntensityWindow, Volume

PGD = ("--attack", "pgd:steps=2,alpha=4/255")


def volume_of(window=None, channels=1, shape=(6, 5, 7)):
    rng = np.random.default_rng(0)
    affine = np.array([[-0.9, 0.1, 0, 5], [0.1, 1.2, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
    image = rng.random((channels, *shape), dtype=np.float32)
    image.flat[:4] = 0.0, 1.0, 1e-7, np.float32(1) - np.float32(2**-24)
    label = rng.integers(0, 3, shape).astype(np.int16)
    return Volume("c1", image, label, (0.9, 1.2, 2.5), affine, window or IntensityWindow(-175.0, 250.0, "HU"))


def note_of(volume, **changes):
    note = Note(
        key="0123456789abcdef", units="unit", dataset="toy", case=volume.id, attack="pgd:eps=8/255", surrogate="unet",
        surrogate_sha256="ab", protocol="robustvox-1", seed=0, data_sha256=data_fingerprint(volume), forwards=3,
        backwards=2, seconds=0.5, flags=("untrained",),
    )  # fmt: skip
    return replace(note, **changes)


def saved(folder, volume, **changes):
    path = save_adversarial(folder, volume, volume.image, note_of(volume, **changes))
    return SavedVolume(path, read_note(path))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", ["unit", "original"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("limits", [(-175.0, 250.0), (0.3, 987.654321), (10000.0, 10010.0)])
def test_not_one_bit_is_lost(tmp_path, units, channels, limits):
    volume = volume_of(IntensityWindow(*limits), channels)
    file = saved(tmp_path, volume, units=units)
    np.testing.assert_array_equal(file.load(volume, data_fingerprint(volume)), volume.image)
    stored = nib.load(file.path)
    assert stored.get_data_dtype() == np.float32
    np.testing.assert_allclose(stored.affine, volume.affine, atol=1e-6)
    shown = np.moveaxis(stored.get_fdata(), -1, 0) if channels > 1 else stored.get_fdata()[None]
    expected = volume.window.invert(volume.image) if units == "original" else volume.image
    np.testing.assert_allclose(shown, expected, rtol=2e-7, atol=1e-6 * (limits[1] - limits[0]))


def test_windows_per_channel_come_back_to_rounding(tmp_path):
    windows = ChannelWindows((IntensityWindow(-175.0, 250.0), IntensityWindow(0.0, 4000.0)))
    volume = volume_of(windows, 2)
    back = saved(tmp_path, volume, units="original").load(volume, data_fingerprint(volume))
    # Half a unit in the last place of the largest intensity, as a share of the window.
    for channel, bound in zip(range(2), (2**-17 / 425, 2**-13 / 4000), strict=True):
        assert np.abs(back[channel] - volume.image[channel]).max() <= bound + 2**-24


def test_a_file_that_another_tool_wrote_again_in_plain_hu(tmp_path):
    volume = volume_of()
    file = saved(tmp_path, volume, units="original")
    stored = nib.load(file.path)
    plain = nib.Nifti1Image(stored.get_fdata(dtype=np.float32), stored.affine)
    plain.header.extensions.extend(stored.header.extensions)
    nib.save(plain, file.path)
    assert nib.load(file.path).dataobj.slope == 1.0
    back = SavedVolume(file.path, read_note(file.path)).load(volume, data_fingerprint(volume))
    assert np.abs(back - volume.image).max() <= 2**-17 / 425 + 2**-24


def test_the_note_comes_back(tmp_path):
    volume = volume_of()
    file = saved(tmp_path, volume, attack="torchattacks:X,μ=1", seed=7)
    assert file.note == note_of(volume, attack="torchattacks:X,μ=1", seed=7)
    assert b"0123456789abcdef unit" in bytes(nib.load(file.path).header["descrip"])


def test_names_of_any_length_and_kind_are_files(tmp_path):
    volume = volume_of()
    specs = ["vafa@l2=" + "x" * 300 + end for end in "ab"]
    paths = {saved(tmp_path, volume, attack=spec, surrogate="../m").path for spec in specs}
    assert len(paths) == 2
    assert all(path.resolve().is_relative_to(tmp_path.resolve()) for path in paths)


def break_header(path):
    path.write_bytes(b"not a nifti file")


def drop_note(path):
    stored = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), stored.affine), path)


def damage_note(path):
    raw = gzip.decompress(path.read_bytes())
    assert raw.count(b'"seed"') == 1
    path.write_bytes(gzip.compress(raw.replace(b'"seed"', b'"sead"')))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_header, "complete NIfTI"),
        (lambda p: p.write_bytes(b""), "complete NIfTI"),
        (drop_note, "found none"),
        (damage_note, "found a damaged one"),
    ],
)
def test_a_file_without_a_note_is_named(tmp_path, harm, message):
    path = saved(tmp_path, volume_of()).path
    harm(path)
    with pytest.raises(ValueError, match=message) as error:
        read_note(path)
    assert path.name in str(error.value)


def test_what_does_not_fit_the_case_is_refused(tmp_path):
    volume = volume_of()
    sha = data_fingerprint(volume)
    file = saved(tmp_path, volume)
    moved = volume.affine.copy()
    moved[0, 3] += 1
    smaller = volume_of(shape=(6, 5, 6))
    for other, fingerprint, message in [
        (smaller, sha, r"expected the shape \(6, 5, 6\) of the case, found \(6, 5, 7\)"),
        (replace(volume, affine=moved), sha, "one affine"),
        (volume, "ff" * 32, "made from this image"),
    ]:
        with pytest.raises(CaseError, match=message) as error:
            file.load(other, fingerprint)
        assert "c1" in str(error.value)


@pytest.mark.parametrize("units", ["unit", "original"])
@pytest.mark.parametrize(("value", "message"), [(1.5, "intensities in"), (np.nan, "finite")])
def test_values_out_of_range_are_refused_rather_than_clipped(tmp_path, units, value, message):
    volume = volume_of()
    image = volume.image.copy()
    image.flat[9] = value
    path = save_adversarial(tmp_path, volume, image, note_of(volume, units=units))
    with pytest.raises(CaseError, match=message):
        SavedVolume(path, read_note(path)).load(volume, data_fingerprint(volume))


# --- the command ----------------------------------------------------------------------------------


def rescore(toy, volumes, out, *more, target="segresnet"):
    data = ["--dataset", str(toy.folder), "--out", str(out)]
    chosen = ["--target", target, "--checkpoint", str(toy.checkpoints[target])]
    return main(["--no-report", "--adversarial", str(volumes), *chosen, *data, *more])


def attacked(out):
    records = load_records(out / "toy" / "records")
    costs = records.costs[records.costs["attack"] != "none"].sort_values("unit", ignore_index=True)
    scores = records.scores[records.scores["attack"] != "none"]
    return costs, scores.sort_values(["unit", "class_id"], ignore_index=True), records.failures


@pytest.fixture
def made(toy):
    """Volumes attacked on unet and scored on segresnet too, crafted live."""
    toy.recorded(*PGD, "--transfer", "--save-adversarial", "--units", "original", "--seed", "5",
                 models=("unet", "segresnet"))  # fmt: skip
    volumes = toy.root / "results" / "toy" / "adversarial"
    shutil.rmtree(volumes / "segresnet")
    return volumes


def test_scoring_files_gives_the_rows_of_crafting_live(toy, made):
    for target, surrogate in (("segresnet", "unet"), ("unet", "unet")):
        out = toy.root / f"rescored_{target}"
        assert rescore(toy, made, out, target=target) == 0
        costs, scores, _ = attacked(out)
        live_costs, live_scores, _ = attacked(toy.root / "results")
        wanted = live_costs[(live_costs["target"] == target) & (live_costs["surrogate"] == surrogate)]
        assert len(costs) == len(wanted) == 3
        wanted = wanted.reset_index(drop=True)
        pd.testing.assert_frame_equal(costs.drop(columns="provenance"), wanted.drop(columns="provenance"))
        live_scores = live_scores[live_scores["unit"].isin(wanted["unit"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(scores, live_scores, rtol=0, atol=1e-6)
    name = "transfer"
    again, live = (toy.table(out, name) for out in (toy.root / "rescored_segresnet", toy.root / "results"))
    live = live[live["surrogate"] == "unet"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, live)


def test_scored_files_are_recorded_once(toy, made, capsys):
    capsys.readouterr()
    assert rescore(toy, made, toy.root / "results") == 0
    assert "0 computed, 6 already recorded" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_score_files_too(toy, made):
    assert rescore(toy, made, toy.root / "one") == 0
    assert rescore(toy, made, toy.root / "two", "--workers", "2") == 0
    for one, two in zip(attacked(toy.root / "one")[:2], attacked(toy.root / "two")[:2], strict=True):
        drop = [c for c in ("provenance",) if c in one]
        pd.testing.assert_frame_equal(one.drop(columns=drop), two.drop(columns=drop))


def test_bad_files_are_refused_each_and_the_others_scored(toy, made, capsys):
    (folder,) = (made / "unet").iterdir()
    good = folder / "case_000.nii.gz"
    notes = {
        "other_dataset": {"dataset": "phantom"},
        "other_protocol": {"protocol": "bmvc2024"},
        "foreign": {"case": "case_777"},
        "z_twin": {},
    }
    volume = SavedVolume(good, read_note(good))
    for name, changes in notes.items():
        stored = nib.load(good)
        case = volume_of(shape=stored.shape)
        path = save_adversarial(made / name, case, case.image, replace(volume.note, **changes))
        path.rename(path.with_name(f"{name}.nii.gz"))
    drop_note(folder / "case_001.nii.gz")
    whole = (folder / "case_002.nii.gz").read_bytes()
    (folder / "case_002.nii.gz").write_bytes(whole[: len(whole) // 2])
    (made / "notes.txt").write_text("not a volume")
    capsys.readouterr()
    assert rescore(toy, made, toy.root / "rescored") == 1
    printed = capsys.readouterr().out
    for message in (
        "a volume of toy, found one of phantom in other_dataset.nii.gz",
        "found bmvc2024 in other_protocol.nii.gz",
        "case case_777: expected a case of toy",
        "one volume per case, attack, model and seed",
        "case_001.nii.gz: expected the note",
        "case case_002: expected a complete NIfTI file",
    ):
        assert message in printed
    costs, _, failures = attacked(toy.root / "rescored")
    assert list(costs["case"]) == ["case_000"]
    assert list(failures["case"]) == ["case_002"]
    assert failures["attack"].tolist() == costs["attack"].tolist()


def test_cases_can_be_chosen(toy, made):
    assert rescore(toy, made, toy.root / "rescored", "--cases", "case_002") == 0
    assert list(attacked(toy.root / "rescored")[0]["case"]) == ["case_002"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--attack", "pgd"], "got --attack"),
        (["--model", "unet"], "got --model"),
        (["--save-adversarial"], "got --save-adversarial"),
        (["--cases", "case_999"], "ids look like"),
    ],
)
def test_what_makes_no_sense_with_files_is_refused(toy, tmp_path, capsys, more, message):
    volume = volume_of()
    saved(tmp_path / "files", volume)
    assert rescore(toy, tmp_path / "files", toy.root / "out", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_folders_without_volumes_are_refused(toy, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, message in (("nowhere", "found none at"), ("empty", "NIfTI files below")):
        assert rescore(toy, tmp_path / folder, toy.root / "out") == 2
        assert message in capsys.readouterr().err
    assert main(["--adversarial", str(tmp_path / "empty"), "--dataset", str(toy.folder)]) == 2
    assert "--target" in capsys.readouterr().err


def test_volumes_of_recorded_runs_are_said_not_to_be_saved(toy, capsys):
    toy.recorded(*PGD)
    capsys.readouterr()
    assert toy(*PGD, "--save-adversarial") == 0
    assert "volumes were not saved" in capsys.readouterr().out
    assert not (toy.root / "results" / "toy" / "adversarial").exists()
