"""The qualitative figure: scale, spectrum, labels, bytes."""

from __future__ import annotations

import io

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
import scipy.fft
import torch
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from PIL import Image

from robustvox.attacks.dct import dct
from robustvox.benchmark.show.figures.canvas import DARK, LIGHT, encode, repaint, save
from robustvox.benchmark.show.figures.labels import class_style, outline, paint_labels
from robustvox.benchmark.show.figures.perturbation import amplification, spectrum
from robustvox.benchmark.show.figures.planes import planes
from robustvox.benchmark.show.figures.slices import slice_figure

COLUMNS = 7


def panel(figure, row: int, column: int):
    return figure.axes[row * COLUMNS + column]


def texts(figure) -> str:
    return "\n".join(t.get_text() for t in (*figure.texts, *(t for a in figure.axes for t in a.texts)))


def flipped(spacing) -> np.ndarray:
    """Voxel axes S, R, P: nothing lies where the array has it."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = spacing[0], spacing[1], -spacing[2], 1
    return affine


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 4.0), (5.0, 0.5, 0.5)])
def test_all_panels_have_one_scale_in_mm(example, spacing):
    shown = example(spacing=spacing)
    figure = slice_figure(shown)
    width, height = figure.get_size_inches()
    scales = set()
    for row, plane in enumerate(planes(shown.affine)):
        for column in (0, 1, 2, 4, 5, 6):
            axes = panel(figure, row, column)
            box, (across, down) = axes.get_position(), plane.size_mm(shown.reference.shape, spacing)
            scales |= {round(box.width * width / across, 9), round(box.height * height / down, 9)}
            image = axes.images[0]
            assert image.get_extent() == pytest.approx([0, across, down, 0])
            assert image.get_array().shape == plane.cut(shown.reference, 0).shape
            assert axes.get_aspect() == 1.0
    assert len(scales) == 1
    # As drawn, not only as set: nothing shrinks a box when the figure is rendered.
    figure.draw_without_rendering()
    assert panel(figure, 2, 0).get_window_extent().width == pytest.approx(
        panel(figure, 2, 0).get_position().width * width * figure.dpi
    )


@pytest.mark.parametrize("turn", [lambda s: np.diag([*s, 1.0]), flipped], ids=["RAS", "SRP"])
def test_the_spectrum_is_scipys(example, turn):
    spacing = (1.0, 1.5, 4.0)
    shown = example(spacing=spacing, affine=turn(spacing))
    delta = shown.adversarial[0].astype(np.float64) - shown.image[0]
    full = np.abs(scipy.fft.dctn(delta, norm="ortho"))
    for row, plane in enumerate(planes(shown.affine)):
        expected = np.log10(full.mean(axis=plane.through))
        expected = expected if plane.down < plane.across else expected.T
        drawn = np.asarray(panel(slice_figure(shown), row, 3).images[0].get_array())
        kept = drawn > drawn.min()
        assert kept.mean() > 0.9
        np.testing.assert_allclose(drawn[kept], expected[kept], rtol=1e-12)


def test_the_spectrum_is_that_of_the_attacks():
    delta = np.random.default_rng(0).normal(size=(8, 8, 8))
    ours = dct(torch.from_numpy(delta)[None, None], 8)[0, 0].abs().numpy()
    np.testing.assert_allclose(spectrum(delta), ours, atol=1e-12)


@pytest.mark.parametrize("turn", [lambda s: np.diag([*s, 1.0]), flipped], ids=["RAS", "SRP"])
def test_labels_lie_where_the_image_has_them(example, turn):
    spacing = (1.0, 1.5, 4.0)
    reference = np.zeros((9, 12, 7), np.int64)
    reference[2, 7, 5] = 1
    image = reference[None].astype(np.float32)
    shown = example(
        spacing=spacing, affine=turn(spacing), image=image, adversarial=image, reference=reference,
        clean_prediction=reference, adversarial_prediction=reference,
    )  # fmt: skip
    figure = slice_figure(shown)
    for row in range(3):
        gray, fill = (np.asarray(i.get_array()) for i in panel(figure, row, 4).images)
        assert np.array_equal(fill[..., 3] > 0, gray == 1)
        assert (gray == 1).sum() == 1
    assert "voxel (2, 7, 5)" in texts(figure)


def test_dice_amplification_and_convention_are_stated(example):
    said = texts(slice_figure(example()))
    assert "Dice 1.000" in said
    assert "Dice 0.812" in said
    assert "Perturbation times 16, clipped" in said
    assert "Radiological convention: the patient's right is on the left" in said
    assert "Neurological convention: the patient's left is on the left" in texts(
        slice_figure(example(), "neurological")
    )


def test_the_perturbation_is_the_difference_amplified(example):
    shown = example()
    voxel = (4, 3, 2)  # of the changed voxels, those in slice z=2 share all of them
    delta = shown.adversarial[0].astype(np.float64) - shown.image[0]
    drawn = np.asarray(panel(slice_figure(shown), 0, 2).images[0].get_array())
    expected = np.clip(16 * delta[:, :, voxel[2]], -0.5, 0.5).T[::-1, ::-1]
    np.testing.assert_allclose(drawn, expected, atol=1e-12)


@pytest.mark.parametrize("largest", [0.9, 0.4, 8 / 255, 1 / 255, 1e-4])
def test_the_amplification_uses_the_scale(largest):
    factor = amplification(np.linspace(-largest, largest, 2001))
    top = factor * 0.995 * largest
    assert factor == 1 or 0.5 / 1.12 < top <= 0.5 * 1.005


def test_oblique_and_multichannel_volumes_say_so(example):
    turned = np.eye(4)
    turned[:3, :3] = nib.eulerangles.euler2mat(np.radians(12.0))
    assert "up to 12 degrees off" in texts(slice_figure(example(affine=turned)))
    image = np.full((3, 9, 12, 7), 0.5, np.float32)
    adversarial = image.copy()
    adversarial[1, 4] = 0.6
    said = texts(slice_figure(example(image=image, adversarial=adversarial)))
    assert "Channel 1 of 3 is shown" in said


def test_nothing_changed_and_nothing_there_is_still_a_figure(example):
    shape = (5, 6, 1)
    image, empty = np.zeros((1, *shape), np.float32), np.zeros(shape, np.int64)
    shown = example(
        image=image, adversarial=image, reference=empty, clean_prediction=empty,
        adversarial_prediction=empty, dice_clean=float("nan"), dice_adversarial=float("nan"),
    )  # fmt: skip
    assert encode(slice_figure(shown), "png").startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="3D volume"):
        slice_figure(example(reference=np.zeros((5, 6), int)))


def oklab(colors, cones=((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    """Colors in OKLab (Ottosson 2020), as eyes with these cones see them (Machado et al. 2009, linear RGB)."""
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(cones)
    first = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    second = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(np.clip(linear, 0, 1) @ np.transpose(first)) @ np.transpose(second)


@pytest.mark.parametrize(
    ("cones", "least"),
    [
        (((1, 0, 0), (0, 1, 0), (0, 0, 1)), 0.12),
        (((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)), 0.075),
        (((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)), 0.075),
    ],
    ids=["all", "without red", "without green"],
)
def test_sixteen_classes_have_colors_of_their_own(cones, least):
    """The nearest of the first seven, Okabe and Ito's, are 0.156 apart, and 0.076 without green cones."""
    colors = oklab([class_style(k)[0] for k in range(1, 17)], cones)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    assert apart[np.triu_indices(16, 1)].min() > least
    assert (
        np.linalg.norm(oklab([class_style(k)[0] for k in range(1, 17)])[:, 1:], axis=1).min() > 0.08
    )  # none is gray


def test_many_classes_are_told_apart(example):
    assert len({class_style(k) for k in range(1, 22)}) == 21
    reference = np.arange(9 * 12 * 7).reshape(9, 12, 7) % 16
    names = [f"class_{k}" for k in range(16)]
    figure = slice_figure(example(reference=reference, class_names=names))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [f"class {k}" for k in range(1, 16)]


def test_names_are_text_and_not_formulas(example):
    figure = slice_figure(example(title="$x^", class_names=("background", "a$b$", r"\frac")))
    assert b"$x^" not in encode(figure, "png")
    assert figure.texts[0].get_text() == "$x^"
    assert figure.texts[0].get_parse_math() is False


def test_an_outline_is_the_voxels_whose_neighbor_is_outside():
    mask = np.random.default_rng(2).random((6, 9)) < 0.5
    path = outline(mask, (0.0, 18.0, 18.0, 0.0))  # 2 x 3 per voxel
    found = set()
    for (x0, y0), (x1, y1) in path.vertices.reshape(-1, 2, 2):
        assert x0 == x1 or y0 == y1
        steps = round(abs(x1 - x0) / 2 + abs(y1 - y0) / 3)
        for k in range(steps):
            x, y = (x0 + 2 * k, y0) if y0 == y1 else (x0, y0 + 3 * k)
            found.add((round(x / 2), round(y / 3), y0 == y1))
    expected, padded = set(), np.pad(mask, 1)
    for row, column in np.ndindex(7, 10):
        if column < 9 and padded[row, column + 1] != padded[row + 1, column + 1]:
            expected.add((column, row, True))
        if row < 6 and padded[row + 1, column] != padded[row + 1, column + 1]:
            expected.add((column, row, False))
    assert found == expected


def test_long_notes_stay_inside_the_figure(example):
    figure = slice_figure(example(notes=["vafa:" + "block_size=32," * 40]))
    figure.draw_without_rendering()
    right = figure.get_size_inches()[0] * figure.dpi
    assert all(text.get_window_extent().x1 < right for text in figure.texts)


def test_an_empty_slice_is_painted_with_nothing(example):
    axes = panel(slice_figure(example()), 0, 0)
    before = len(axes.patches)
    paint_labels(axes, np.zeros((3, 4), int), (0, 4, 3, 0))
    assert len(axes.patches) == before


def test_the_same_input_gives_the_same_bytes_whatever_the_user_sets(example, tmp_path):
    first = save(slice_figure(example()), tmp_path / "a.b", ("png", "svg", "pdf"), dpi=60)
    assert [p.name for p in first] == ["a.b.png", "a.b.svg", "a.b.pdf"]
    starts = (b"\x89PNG", b"<?xml", b"%PDF")
    assert all(p.read_bytes().startswith(s) for p, s in zip(first, starts, strict=True))
    assert b"<dc:date>" not in first[1].read_bytes()
    with mpl.rc_context(
        {"font.size": 30, "svg.hashsalt": None, "image.origin": "lower", "savefig.bbox": "tight"}
    ):
        settings = dict(mpl.rcParams)
        second = save(slice_figure(example()), tmp_path / "b", ("png", "svg", "pdf"), dpi=60)
        assert dict(mpl.rcParams) == settings
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    other = io.BytesIO(encode(slice_figure(example(title="another")), "svg", 60)).getvalue()
    assert other != first[1].read_bytes()


def test_on_dark_paper_only_the_paper_and_the_ink_change(example):
    figure = slice_figure(example(notes=("a note",)))
    light = np.asarray(Image.open(io.BytesIO(encode(figure, "png", dpi=60))).convert("RGB")).astype(int)
    repaint(figure, DARK)
    dark = np.asarray(Image.open(io.BytesIO(encode(figure, "png", dpi=60))).convert("RGB")).astype(int)
    assert (light[0, 0] == 255).all()
    np.testing.assert_array_equal(dark[0, 0], np.round(255 * np.array(to_rgba(DARK.back)[:3])))
    for axes in figure.axes[: 3 * COLUMNS]:
        box = axes.get_position()
        x, y = np.array([box.x0, box.x1]) * light.shape[1], (1 - np.array([box.y1, box.y0])) * light.shape[0]
        inside = np.s_[int(y[0]) + 2 : int(y[1]) - 2, int(x[0]) + 2 : int(x[1]) - 2]
        np.testing.assert_array_equal(light[inside], dark[inside])
    inks = {to_rgba(text.get_color()) for text in figure.findobj(Text)}
    assert {to_rgba(DARK.text), to_rgba(DARK.soft)} <= inks
    assert not {to_rgba(LIGHT.text), to_rgba(LIGHT.soft)} & inks
