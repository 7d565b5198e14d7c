"""The viewer: what it embeds, what it crops, what it says, and in headless Chromium what it does.

For the tests in the browser see ``show/page/test_browser.py``; ROBUSTVOX_SCREENSHOTS names a folder for pictures.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.benchmark.harness.compute import ClassScore
from robustvox.benchmark.report.viewer import page
from robustvox.benchmark.report.viewer.page import NIIVUE, SHA256, library, render_viewer
from robustvox.benchmark.report.viewer.volumes import MOST_VOXELS, Scene, crop_box, embedded

MODULES = os.environ.get("ROBUSTVOX_NODE_MODULES", "")
CHROMIUM = os.environ.get("ROBUSTVOX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202egnp"
RAS = np.array([[2.0, 0, 0, -20], [0, 1.0, 0, -5], [0, 0, 3.0, 10], [0, 0, 0, 1]])
# First axis to the patient's left feet, second to the left, third to the front: what a sagittal scan may be.
TURNED = np.array([[0, -1.5, 0, 18], [0, 0, 2.0, -5], [-1.0, 0, 0, 10], [0, 0, 0, 1]])


def scene(affine: np.ndarray = RAS, **changes: Any) -> Scene:
    """A head with one organ, on the patient's left, whose prediction is gone after the attack."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-50, 50, (20, 24, 16))
    label = np.zeros(image.shape, np.int16)
    world = np.moveaxis(np.indices(image.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ (np.array(image.shape) / 2) + affine[:3, 3]
    label[(np.abs(world - middle - [-8, 0, 0]) < 5).all(-1)] = 1
    score = ClassScore(1, "one", 0.9, 1.25, 1.0, "ok")
    found = Scene(
        image=image, adversarial=image + rng.choice([-2.0, 2.0], image.shape), affine=affine,
        labels={"reference": label, "clean": label, "attacked": 0 * label}, unit="HU", window=(-100.0, 100.0),
        class_names=("background", "one"), before=(score,), after=(replace(score, dice=0.0, hd95_mm=80.0),),
        dataset="toy", case="case_000", models="unet", attack="pgd:eps=8/255,steps=2",
        start=tuple(int(axis.mean()) for axis in np.nonzero(label)), notes=("Attack pgd.",),
    )  # fmt: skip
    return replace(found, **changes)


def volume_in(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


# --- what is embedded -----------------------------------------------------------------------------


def test_the_library_is_the_one_of_the_registry() -> None:
    assert hashlib.sha256((library() + "\n").encode()).hexdigest() == SHA256
    note = (Path(page.__file__).parent / "THIRD_PARTY.md").read_text(encoding="utf-8")
    assert f"{NIIVUE}," in note
    assert SHA256 in note
    assert (Path(page.__file__).parent / "niivue.umd.js.xz").stat().st_size < 1.2e6
    # What would end its tag, or begin a comment in which a tag does not end it.
    assert "</script" not in library().lower()
    assert "<!--" not in library()


def test_a_changed_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SHA256", "0" * 64)
    library.cache_clear()
    with pytest.raises(ValueError, match="install robustvox again"):
        library()
    library.cache_clear()


@pytest.mark.parametrize("affine", [RAS, TURNED])
def test_volumes_come_back_as_they_were(affine: np.ndarray) -> None:
    shown = scene(affine)
    files = {name: volume_in(text) for name, text in embedded(shown).items()}
    step = 200 / 65534
    np.testing.assert_allclose(files["image"].get_fdata(), shown.image, atol=0.51 * step)
    np.testing.assert_allclose(files["adversarial"].get_fdata(), shown.adversarial, atol=0.51 * step)
    np.testing.assert_allclose(
        files["difference"].get_fdata(), shown.adversarial - shown.image, atol=2 / 65534 + 1e-9
    )
    for name, values in shown.labels.items():
        np.testing.assert_array_equal(files[name].get_fdata(), values)
    for file in files.values():
        np.testing.assert_allclose(file.affine, affine)
        assert file.header.get_xyzt_units()[0] == "mm"
    assert embedded(shown) == embedded(scene(affine))


def test_an_unchanged_volume_and_a_flat_window_have_a_scale() -> None:
    flat = np.full((4, 4, 4), 7.0)
    shown = scene(
        image=flat, adversarial=flat, labels=dict.fromkeys(("reference", "clean", "attacked"), 0 * flat.astype(int)),
        window=(7.0, 7.0), start=(0, 0, 0),
    )  # fmt: skip
    files = {name: volume_in(text) for name, text in embedded(shown).items()}
    np.testing.assert_array_equal(files["image"].get_fdata(), flat)
    assert not files["difference"].get_fdata().any()
    assert '"reach": 1.0' in render_viewer(shown)


@settings(deadline=None)  # the machine of the tests may be busy
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.lists(st.tuples(*[st.integers(0, 39)] * 3), max_size=4),
    st.integers(1, 5000),
)
def test_a_crop_holds_what_is_labeled_or_as_much_as_may_be_shown(
    shape: tuple[int, ...], marked: list[tuple[int, ...]], most: int
) -> None:
    label = np.zeros(shape, int)
    for place in marked:
        label[tuple(np.minimum(place, np.array(shape) - 1))] = 1
    box = crop_box({"reference": label, "clean": label, "attacked": 0 * label}, most)
    assert 1 <= label[box].size <= max(most, 1)
    assert all(0 <= part.start < part.stop <= n for part, n in zip(box, shape, strict=True))
    around = [np.ptp(axis) + 1 for axis in np.nonzero(label)] if label.any() else [1, 1, 1]
    if np.prod(around) <= most:
        assert label[box].sum() == label.sum()


def test_the_largest_page_is_under_six_megabytes() -> None:
    """Noise in image, change and every label is what compresses worst."""
    rng = np.random.default_rng(0)
    side = (MOST_VOXELS // 100 // 64, 64, 100)
    image = rng.uniform(-100, 100, side)
    labels = {name: rng.integers(0, 3, side) for name in ("reference", "clean", "attacked")}
    worst = scene(image=image, adversarial=image + rng.uniform(-3, 3, side), labels=labels, start=(0, 0, 0))
    assert len(render_viewer(worst)) < 6e6


# --- what it says ---------------------------------------------------------------------------------


def test_the_head_says_attack_budget_and_scores_and_the_table_every_organ() -> None:
    html = render_viewer(scene())
    assert "<h1>toy, case_000  ·  unet  ·  pgd:eps=8/255,steps=2</h1>" in html
    assert "<b>0.900</b> before the attack and <b>0.000</b> after" in html
    assert "<b>2 HU</b>" in html
    row = re.search(r"<tr><th scope=\"row\">.*?</tr>", html, re.DOTALL)
    assert row is not None
    assert re.sub(r"<[^>]*>|\s+", " ", row[0]).split() == ["one", "0.900", "→", "0.000", "1.2", "→", "80.0"]


def test_a_page_has_no_address_to_ask_but_those_in_the_library() -> None:
    html = render_viewer(scene()).replace(library(), "")
    assert not re.search(r"https?:|@import|url\(|<link|<iframe| src=", html)
    assert "default-src 'none'" in unescape(html)
    assert "Niivue\nAll rights reserved" in html


def test_names_of_somebody_else_stay_text() -> None:
    shown = scene(
        case=HOSTILE, class_names=("background", HOSTILE), models=HOSTILE, unit=HOSTILE, notes=(HOSTILE,)
    )
    html = render_viewer(shown)
    assert html.lower().count("<script") - library().lower().count("<script") == 3
    assert "<img" not in html
    assert "\u202e" not in html
    data = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["classes"][1] == HOSTILE.replace("\u202e", " ")


# --- what it does ---------------------------------------------------------------------------------


def browse(folder: Path, shown: Scene, views: str) -> dict[str, Any]:
    """What ``viewer.cjs`` sees on some of its screens."""
    if not shutil.which("node") or not CHROMIUM:
        pytest.skip("no node or no Chromium: install both to open a viewer")
    for package in ("playwright-core", "axe-core"):
        if not MODULES or not (Path(MODULES) / package).is_dir():
            pytest.skip(f"no {package}: set ROBUSTVOX_NODE_MODULES to a node_modules folder that holds it")
    (folder / "viewer.html").write_text(render_viewer(shown), encoding="utf-8")
    script = Path(__file__).with_name("viewer.cjs")
    command = [
        "node",
        str(script),
        str(folder / "viewer.html"),
        views,
        os.environ.get("ROBUSTVOX_SCREENSHOTS", ""),
    ]
    variables = os.environ | {"ROBUSTVOX_CHROMIUM": CHROMIUM}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"address": (folder / "viewer.html").as_uri()}


@pytest.fixture(scope="module", params=["RAS", "turned"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    shown = scene(
        {"RAS": RAS, "turned": TURNED}[request.param], case=HOSTILE, class_names=("background", HOSTILE)
    )
    views = "desktop,dark,phone,phone dark" if request.param == "RAS" else "desktop"
    return browse(tmp_path_factory.mktemp("viewer"), shown, views)


def colored(text: str) -> np.ndarray:
    """Where a picture has the color of the organ: columns as a share of its width."""
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(base64.b64decode(text)), format="png")[..., :3]
    near = np.abs(pixels - np.array([0xE6, 0x9F, 0x00]) / 255).max(-1) < 0.02
    return np.nonzero(near)[1] / pixels.shape[1]


def test_it_opens_in_silence_and_asks_for_nothing(opened: dict[str, Any]) -> None:
    assert opened["console"] == []
    assert opened["dialogs"] == []
    assert opened["texts"]["trouble"] == ""
    assert {url for url in opened["requests"] if not url.startswith("data:")} == {opened["address"]}


def test_left_is_right_where_it_is_said(opened: dict[str, Any]) -> None:
    for view in ("axial", "coronal"):
        radiological = colored(opened["pictures"][f"radiological {view}"])
        neurological = colored(opened["pictures"][f"neurological {view}"])
        assert len(radiological) > 100
        assert radiological.min() > 0.5
        assert neurological.max() < 0.5
    assert re.match(r"\d+\.\d mm [RL], ", opened["texts"]["place"])


def test_the_attacked_image_shows_its_own_prediction_and_moves_with_the_clean_one(
    opened: dict[str, Any],
) -> None:
    assert len(colored(opened["pictures"]["clean"])) > 100
    assert len(colored(opened["pictures"]["attacked"])) == 0
    assert opened["moved"] == [True, True]
    assert "reference </script>" in opened["texts"]["class"]
    assert opened["texts"]["class"].endswith("background attacked")
    assert re.search(r"difference -?2 HU$", opened["texts"]["intensity"])


def test_a_finger_scrolls_the_page_unless_it_shall_hold_the_panel(opened: dict[str, Any]) -> None:
    assert not opened["finger_without_touch"]
    if "fingers" not in opened:
        pytest.skip("no phone was opened on this scene")
    scroll, hold = opened["fingers"]["scroll"], opened["fingers"]["hold"]
    assert opened["fingers"]["offered"]
    assert scroll["scrolled"] > 100
    assert not scroll["moved"]
    assert hold == {"scrolled": 0, "moved": True}
    assert opened["fingers"]["tap"]


def test_a_panel_without_room_waits_for_it(opened: dict[str, Any]) -> None:
    assert opened["drawn_again"]  # and said nothing meanwhile, see above


def test_the_organ_is_named_in_the_legend(opened: dict[str, Any]) -> None:
    assert opened["texts"]["legend"][0] == HOSTILE.replace("\u202e", " ")


def test_no_screen_is_too_narrow_and_axe_finds_nothing(opened: dict[str, Any]) -> None:
    assert set(opened["overflow"].values()) <= {0}
    assert {name: found for name, found in opened["axe"].items() if found} == {}
    assert min(opened["passed"].values()) > 10  # it did look
