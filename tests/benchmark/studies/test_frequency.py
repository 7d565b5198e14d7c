"""Bands partition the spectrum, energies add up, and the study follows from the attack that `run` crafts."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robustvox.attacks.dct import dct
from robustvox.benchmark.cli import main
from robustvox.benchmark.records.packed import write_packed
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.studies.frequency.bands import (
    CUTS,
    KINDS,
    PUBLISHED,
    Band,
    band_masks,
    bands,
    energy_share,
    filter_perturbation,
)
from robustvox.benchmark.studies.frequency.tables import CASES, merge, read_cases, summarize

SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple)
CUT_LISTS = st.lists(st.floats(0.01, 1.7), min_size=1, max_size=5, unique=True).map(sorted)


# --- masks ----------------------------------------------------------------------------------------


@given(SHAPES, CUT_LISTS)
def test_radial_bands_are_a_partition_of_unity(shape, cuts):
    assert (sum(mask.astype(int) for mask in band_masks(shape, "radial", cuts).values()) == 1).all()


@given(SHAPES, CUT_LISTS)
def test_low_and_high_are_complements(shape, cuts):
    masks = list(band_masks(shape, "low_high", cuts).values())
    for low, high in zip(masks[::2], masks[1::2], strict=True):
        assert (low ^ high).all()
        assert low.flat[0], "DC belongs to the low band"


@pytest.mark.parametrize(("low", "high"), [(0, 8), (2, 64), (32, 96), (16, 48)])
def test_cubes_are_the_published_ones(low, high):
    expected = np.zeros((96, 96, 96), bool)
    expected[low:high, low:high, low:high] = True
    np.testing.assert_array_equal(Band("cube", low / 96, high / 96).mask((96, 96, 96)), expected)


def test_published_cubes_hold_the_share_the_notes_give():
    shares = [100 * Band("cube", *edges).mask((96, 96, 96)).mean() for edges in PUBLISHED]
    expected = [0.058, 0.46, 3.7, 26.9, 77.0, 57.9, 29.6, 3.7, 3.7]
    np.testing.assert_allclose(shares, expected, rtol=0.01)


def test_published_high_pass_is_no_complement():
    low, high = (Band("cube", *edges).mask((96, 96, 96)) for edges in ((0, 48 / 96), (48 / 96, 1)))
    assert low.mean() == high.mean() == 0.125


def test_an_edge_means_the_same_wave_whatever_the_size():
    """A cosine of a quarter of Nyquist lies on one side of a cut at 24.5/96, on every grid."""
    for size in (12, 20, 96):
        wave = np.cos(np.pi * (np.arange(size) + 0.5) * (size // 4) / size)
        low, high = (
            filter_perturbation(wave[None], m) for m in band_masks((size,), "low_high", (24.5 / 96,)).values()
        )
        np.testing.assert_allclose(low[0], wave, atol=1e-12)
        np.testing.assert_allclose(high[0], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "edges", "message"),
    [
        ("shell", (0.1,), "among cube, low_high, radial"),
        ("radial", (), "increasing"),
        ("radial", (0.0, 0.5), "above 0"),
        ("low_high", (0.5, 0.25), "increasing"),
        ("cube", ((0.5, 0.5),), "low < high"),
        ("cube", ((-0.1, 0.5),), "low < high"),
    ],
)
def test_bad_edges_are_refused(kind, edges, message):
    with pytest.raises(ValueError, match=message):
        bands(kind, edges)


# --- filtering ------------------------------------------------------------------------------------

PERTURBATIONS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 2), st.integers(2, 7), st.integers(2, 7), st.integers(2, 7)),
    elements=st.floats(-0.125, 0.125, width=32, allow_subnormal=False),
)


@settings(max_examples=60)
@given(PERTURBATIONS, CUT_LISTS)
def test_parts_add_up_and_so_do_their_energies(whole, cuts):
    parts = [filter_perturbation(whole, m) for m in band_masks(whole.shape[1:], "radial", cuts).values()]
    np.testing.assert_allclose(sum(parts), whole, atol=1e-14)
    np.testing.assert_allclose(sum((p**2).sum() for p in parts), (whole**2).sum(), rtol=1e-10, atol=1e-20)
    if (whole**2).sum() > 1e-12:
        assert sum(energy_share(p, whole) for p in parts) == pytest.approx(1.0)


@settings(max_examples=60)
@given(PERTURBATIONS, st.floats(0.05, 1.2))
def test_low_plus_high_is_the_whole(whole, cut):
    low, high = (
        filter_perturbation(whole, m) for m in band_masks(whole.shape[1:], "low_high", (cut,)).values()
    )
    np.testing.assert_allclose(low + high, whole, atol=1e-14)
    assert abs((low * high).sum()) < 1e-12


@settings(max_examples=30)
@given(PERTURBATIONS, st.sampled_from(["linf", "l2"]))
def test_rescaling_gives_the_norm_back(whole, rescale):
    mask = Band("low", 0.0, 0.6).mask(whole.shape[1:])
    plain, scaled = (filter_perturbation(whole, mask, rescale=r) for r in ("none", rescale))
    norm = {"linf": lambda x: np.abs(x).max(), "l2": np.linalg.norm}[rescale]
    assert np.isfinite(scaled).all()
    if norm(plain) > 1e-6 * norm(whole):
        assert norm(scaled) == pytest.approx(norm(whole))
        cosine = (plain * scaled).sum() / (np.linalg.norm(plain) * np.linalg.norm(scaled))
        assert cosine == pytest.approx(1.0)


def test_a_part_without_energy_is_not_blown_up():
    constant = np.full((1, 6, 6, 6), 0.03)
    mask = Band("high", 1 / 3, math.inf).mask((6, 6, 6))
    assert not filter_perturbation(constant, mask, rescale="l2").any()
    assert math.isnan(energy_share(np.zeros(3), np.zeros(3)))


def test_the_transform_is_that_of_the_attacks():
    """Same coefficients as attacks/dct.py, so a band here is a band there."""
    whole = np.random.default_rng(0).normal(size=(2, 8, 8, 8))
    mask = Band("radial", 0.2, 0.7).mask((8, 8, 8))
    ours = dct(torch.from_numpy(filter_perturbation(whole, mask))[None], 8)[0].numpy()
    theirs = dct(torch.from_numpy(whole)[None], 8)[0].numpy() * mask
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


@pytest.mark.parametrize(
    ("mask", "rescale"), [(np.ones((2, 2), bool), "none"), (np.ones((3, 3), bool), "l1")]
)
def test_bad_arguments_of_the_filter_are_refused(mask, rescale):
    with pytest.raises(ValueError, match="expected"):
        filter_perturbation(np.zeros((1, 3, 3)), mask, rescale=rescale)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than these studies; what the pictures show has a test of its own."""
    monkeypatch.setattr("robustvox.benchmark.studies.frequency.curve.draw", lambda folder, table: [])


def frequency(toy, *more, out=None):
    return main(["frequency", *toy.arguments("--cases", "case_000,case_001", *more, out=out)])


def cases(toy, out=None):
    return read_cases((out or toy.root / "results") / "toy" / "frequency" / CASES)


PGD = ("--attack", "pgd:steps=2,alpha=4/255")


@pytest.mark.parametrize("protocol", ["robustvox-1", "bmvc2024", "robustvox-1:background=true"])
def test_the_whole_perturbation_scores_as_run_recorded_it(toy, capsys, protocol, no_pictures):
    under = (*PGD, "--protocol", protocol)
    assert toy(*under, "--cases", "case_000,case_001") == 0
    capsys.readouterr()
    assert frequency(toy, *under, "--bands", "low_high", "--cuts", "1/4,1/2") == 0
    records = load_records(toy.root / "results" / "toy" / "records")
    scores = records.scores[records.scores["attack"] != "none"].groupby("case")["dice"].mean()
    clean = records.scores[records.scores["attack"] == "none"].groupby("case")["dice"].mean()
    whole = cases(toy).query("kind == 'whole'").set_index("case")
    pd.testing.assert_series_equal(whole["dice"], scores, check_names=False)
    pd.testing.assert_series_equal(whole["dice_clean"], clean, check_names=False)
    costs = records.costs[records.costs["attack"] != "none"].set_index("case")
    np.testing.assert_allclose(whole["l2"], costs.loc[whole.index, "l2"], rtol=1e-9)
    assert (toy.root / "results" / "toy" / "frequency" / "bands.csv").is_file()
    shown = capsys.readouterr().out
    assert "effect" in shown
    assert (f"under {protocol}" in " ".join(shown.split())) == (protocol != "robustvox-1")


@pytest.mark.slow
def test_another_model_sees_what_the_protocol_shows_it(toy, no_pictures):
    """Under uint8 a transferred volume is truncated, as in a run."""
    under = (*PGD, "--protocol", "bmvc2024")
    other = next(name for name in toy.checkpoints if name != "unet")
    assert toy(*under, "--transfer", "--cases", "case_000,case_001", models=("unet", other)) == 0
    named = ["--target", str(toy.checkpoints[other])]
    assert frequency(toy, *under, *named, "--bands", "radial", "--cuts", "1/2") == 0
    records = load_records(toy.root / "results" / "toy" / "records")
    pairs = records.costs.query("attack != 'none' and surrogate == 'unet'").set_index(["target", "case"])
    whole = cases(toy).query("kind == 'whole'").set_index(["target", "case"])
    np.testing.assert_allclose(whole["l2"], pairs.loc[whole.index, "l2"], rtol=1e-9)
    assert (np.abs(whole["l2"].to_numpy() - pairs.loc["unet", "l2"].to_numpy()) > 1e-6).all()


def test_rows_have_energies_that_add_up_and_are_replaced_not_repeated(toy, no_pictures):
    options = (*PGD, "--bands", "radial", "--cuts", "1/4,1/2", "--rescale", "none", "--rescale", "l2")
    assert frequency(toy, *options) == 0
    first = cases(toy)
    assert len(first) == 2 * 2 * (1 + 3)
    radial = first[(first["kind"] == "radial") & (first["rescale"] == "none")]
    np.testing.assert_allclose(radial.groupby("case")["energy"].sum(), 1.0)
    np.testing.assert_allclose(radial.groupby("case")["share"].sum(), 1.0)
    assert frequency(toy, *options) == 0
    pd.testing.assert_frame_equal(cases(toy), first)


def test_saved_volumes_give_the_rows_of_the_attack(toy, no_pictures):
    out = toy.root / "other"
    options = ("--bands", "low_high", "--cuts", "1/3")
    assert toy(*PGD, "--save-adversarial", "--units", "original", "--cases", "case_000,case_001") == 0
    assert frequency(toy, *PGD, *options) == 0
    volumes = toy.root / "results" / "toy" / "adversarial"
    arguments = ["--dataset", str(toy.folder), "--split", "all", "--cases", "all", "--out", str(out)]
    target = ["--target", "unet", "--checkpoint", str(toy.checkpoints["unet"])]
    assert main(["frequency", "--adversarial", str(volumes), *target, *arguments, *options]) == 0
    pd.testing.assert_frame_equal(cases(toy, out), cases(toy))


def test_one_bad_case_fails_alone(toy, capsys, no_pictures):
    (toy.folder / "imagesTr" / "case_001.nii.gz").write_bytes(b"")
    assert frequency(toy, *PGD, "--bands", "radial", "--cuts", "1/2") == 1
    assert "case case_001: expected a complete NIfTI file" in capsys.readouterr().out
    assert set(cases(toy)["case"]) == {"case_000"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bands", "cubes"], "did you mean cube?"),
        (["--cuts", "1/2,1/4"], "increasing"),
        (["--cuts", "low"], "numbers like 8/96"),
        (["--rescale", "l3"], "--rescale"),
    ],
)
def test_a_mistake_is_one_line(toy, capsys, options, message):
    assert frequency(toy, *PGD, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ""], ids=["other columns", "empty"])
def test_a_foreign_file_in_place_of_the_rows_is_named(toy, capsys, text):
    folder = toy.root / "results" / "toy" / "frequency"
    folder.mkdir(parents=True)
    write_packed(folder / CASES, text)
    assert frequency(toy, *PGD, "--bands", "radial", "--cuts", "1/2") == 2
    assert CASES in capsys.readouterr().err


def rows(dice, band="low <8", case="c1", clean=0.9, attacked=0.4):
    identity = dict(
        dataset="d", protocol="p", surrogate="m", surrogate_sha256="a", target="m", target_sha256="a",
        attack="pgd", seed=0, case=case, rescale="none", kind="low", band=band, low=0.0, high=8 / 96,
    )  # fmt: skip
    measured = dict(share=0.1, energy=0.2, linf=0.1, l2=1.0, dice_clean=clean, dice_adv=attacked, dice=dice)
    return pd.DataFrame([{**identity, **measured}])


@pytest.mark.usefixtures("few_patients")
def test_the_summary_by_hand():
    table = summarize(merge(rows(0.8, case="c1"), rows(0.6, case="c2")))
    (row,) = table.to_dict("records")
    assert row["n_cases"] == 2
    assert row["dice"] == pytest.approx(0.7)
    assert row["dice_low"] == pytest.approx(0.6)
    assert row["dice_high"] == pytest.approx(0.8)
    assert row["effect"] == pytest.approx((0.9 - 0.7) / (0.9 - 0.4))
    assert math.isnan(summarize(rows(0.9, attacked=0.895))["effect"][0]), "no loss to share out"


@pytest.mark.usefixtures("few_patients")
def test_the_figure_shows_what_the_table_says(toy):
    from robustvox.benchmark.studies.frequency.curve import curve

    assert frequency(toy, *PGD, "--cuts", "1/4,1/2") == 0
    folder = toy.root / "results" / "toy" / "frequency"
    assert {p.suffix for p in folder.glob("unet.*")} == {".svg", ".png"}
    table = pd.read_csv(folder / "bands.csv")
    cuts, energy, _ = curve(table).axes
    low = table[table["kind"] == "low"].sort_values("high")
    np.testing.assert_allclose(cuts.lines[0].get_xydata(), low[["high", "dice"]] * [96, 1])
    np.testing.assert_allclose(energy.lines[0].get_ydata(), table[table["kind"] == "radial"]["energy"])


def test_defaults_are_all_kinds():
    assert [len(bands(kind, PUBLISHED if kind == "cube" else CUTS)) for kind in KINDS] == [9, 16, 9]


# --- what the page shows --------------------------------------------------------------------------

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("dataset", ["phantom", "hippocampus"])
def test_committed_bands_follow_from_the_cases(dataset):
    folder = REPOSITORY / "results" / dataset / "frequency"
    committed = pd.read_csv(folder / "bands.csv")
    pd.testing.assert_frame_equal(summarize(read_cases(folder / CASES)), committed, rtol=1e-9)


@pytest.mark.parametrize(("place", "dataset"), [(0, "phantom"), (1, "hippocampus")])
def test_the_tables_of_the_page_follow_from_the_results(place, dataset):
    page = (REPOSITORY / "docs" / "frequency.md").read_text().split("| band |")[1 + place]
    lines = re.findall(r"^\| `(.+?)` \| (.*) \|$", page, re.M)
    assert len(lines) == 12
    table = pd.read_csv(REPOSITORY / "results" / dataset / "frequency" / "bands.csv")
    for band, cells in lines:
        expected = []
        for name in ("pgd", "vafa"):
            (row,) = table[(table["band"] == band) & table["attack"].str.startswith(f"{name}:")].to_dict(
                "records"
            )
            assert row["n_cases"] < 8  # too few for an interval
            assert pd.isna(row["dice_low"])
            expected += [f"{100 * row['energy']:.0f}%", f"{row['dice']:.2f}"]
        assert cells.split(" | ") == expected, band
