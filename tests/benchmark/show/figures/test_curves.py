"""Curves and heat maps show the numbers of the tables, and nothing where there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.show.figures.bars import MOST, drop_chart
from robustvox.benchmark.show.figures.canvas import encode
from robustvox.benchmark.show.figures.curves import budget_curves, distortion_curves
from robustvox.benchmark.show.figures.heatmap import NO_ATTACK, transfer_heatmaps, transfer_matrix
from robustvox.benchmark.show.labels import attack_names


def row(surrogate, target, attack, dice, l2=1.0):
    return {
        "surrogate": surrogate, "target": target, "attack": load_attack(attack).spec, "dice_clean": 0.9,
        "dice_adv": dice, "dice_adv_low": dice - 0.03, "dice_adv_high": dice + 0.02, "l2": l2,
    }  # fmt: skip


@pytest.fixture
def white_box() -> pd.DataFrame:
    budgets = ("2/255", 0.8, 2.0), ("4/255", 0.7, 4.0), ("8/255", 0.55, 8.0)
    rows = [row(m, m, f"pgd:eps={eps}", dice, l2) for m in ("unet", "unetr") for eps, dice, l2 in budgets]
    rows += [row("unet", "unet", "vafa:q_max=20", 0.82, 2.6), row("unet", "unet", "ensemble", float("nan"))]
    return pd.DataFrame(rows)


@pytest.fixture
def transfer() -> pd.DataFrame:
    return pd.DataFrame(
        [row("unet", "unetr", "pgd:eps=8/255", 0.85), row("unetr", "segresnet", "pgd:eps=8/255", 0.86)]
    )


def lines(*specs):
    names = attack_names({load_attack(spec).spec: 1 for spec in specs})
    return {spec: (names[full].line, names[full].knob) for spec in specs for full in [load_attack(spec).spec]}


def test_a_step_size_that_follows_the_budget_does_not_split_a_family():
    found = lines("pgd:eps=2/255", "pgd:eps=8/255", "pgd:eps=8/255,alpha=0.005", "pgd:eps=4/255,steps=10")
    assert list(found.values()) == [
        ("pgd", "eps"),
        ("pgd", "eps"),
        ("pgd alpha 0.005", "eps"),
        ("pgd steps 10", "eps"),
    ]
    found = lines(
        "vafa:q_max=20", "vafa:q_max=30", "vafa:q_max=30,eps=8/255", "gn:std=4/255", "sa2:rho=0.1", "sa2"
    )
    assert list(found.values()) == [
        ("vafa", "q_max"), ("vafa", "q_max"), ("vafa 8/255", "q_max"), ("gn", "std"), ("sa2", "rho"), ("sa2", "rho")
    ]  # fmt: skip
    names = attack_names({"gn:std=8/255@l2=fgsm:eps=8/255,loss=dice": 1, "mine:strength=1": 1})
    assert {name.knob for name in names.values()} == {""}


def test_another_step_size_at_the_same_budget_is_no_point_on_the_curve(white_box):
    slow = pd.DataFrame([row("unet", "unet", "pgd:eps=4/255,alpha=0.005", 0.88, 0.5)])
    figure = budget_curves(pd.concat([white_box, slow], ignore_index=True))
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_label() == "unet"]
    assert np.allclose(line.get_xydata(), [[2, 0.8], [4, 0.7], [8, 0.55]])


def test_budget_curves_draw_the_table(white_box):
    figure = budget_curves(white_box)
    (axes,) = figure.axes
    assert axes.get_title() == "pgd"
    lines = {
        line.get_label(): line.get_xydata().tolist()
        for line in axes.lines
        if line.get_label() in ("unet", "unetr")
    }
    expected = [[2, 0.8], [4, 0.7], [8, 0.55]]
    assert set(lines) == {"unet", "unetr"}
    assert np.allclose(lines["unet"], expected)
    corners = axes.collections[0].get_paths()[0].vertices
    for eps, dice in expected:
        at = corners[np.isclose(corners[:, 0], eps), 1]
        assert at.min() == pytest.approx(dice - 0.03)
        assert at.max() == pytest.approx(dice + 0.02)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["clean", "2", "4", "8"]
    styles = {(line.get_color(), line.get_marker()) for line in axes.lines if line.get_label() in lines}
    assert len(styles) == 2


def test_one_budget_is_no_curve(white_box):
    assert budget_curves(white_box[white_box["attack"].str.startswith("vafa")]) is None
    assert budget_curves(white_box.iloc[:0]) is None
    assert distortion_curves(white_box.iloc[:0]) is None


def test_distortion_curves_hold_every_measured_row(white_box):
    figure = distortion_curves(white_box)
    drawn = {
        axes.get_title(): sum(len(c.lines[0].get_xdata()) for c in axes.containers) for axes in figure.axes
    }
    assert drawn == {"unet": 4, "unetr": 3}
    assert len(figure.legends[0].get_texts()) == 2


def test_the_transfer_matrix_is_what_was_measured(white_box, transfer):
    attack = load_attack("pgd:eps=8/255").spec
    matrix = transfer_matrix(white_box, transfer, attack)
    assert matrix.index.tolist() == [NO_ATTACK, "unet", "unetr"]
    assert matrix.columns.tolist() == ["segresnet", "unetr"]
    assert matrix.loc["unet", "unetr"] == 0.85
    assert matrix.loc["unetr", "unetr"] == 0.55
    assert np.isnan(matrix.loc["unet", "segresnet"])
    assert (matrix.loc[NO_ATTACK] == 0.9).all()
    (axes, _) = transfer_heatmaps(white_box, transfer).axes
    assert sorted(t.get_text() for t in axes.texts) == sorted(["0.90", "0.90", "–", "0.85", "0.86", "0.55"])
    assert transfer_heatmaps(white_box, transfer.iloc[:0]) is None


def test_a_cell_can_be_read_on_its_color(white_box, transfer):
    (axes, _) = transfer_heatmaps(white_box, transfer).axes
    image = axes.images[0]
    for text in axes.texts:
        value = image.get_array()[round(text.get_position()[1]), round(text.get_position()[0])]
        if np.ma.is_masked(value):
            continue
        back = np.array(image.cmap(image.norm(value))[:3])
        luminance = np.where(back <= 0.04045, back / 12.92, ((back + 0.055) / 1.055) ** 2.4) @ [
            0.2126,
            0.7152,
            0.0722,
        ]
        contrast = (luminance + 0.05) / 0.05 if text.get_color() == "black" else 1.05 / (luminance + 0.05)
        assert contrast > 4.5, (text.get_text(), contrast)


def test_the_chart_of_a_run_holds_every_row(white_box):
    figure = drop_chart(white_box)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()][:2] == [
        "unet, pgd 2/255",
        "unet, pgd 4/255",
    ]
    assert axes.lines[0].get_xdata().tolist() == [0.9] * 7
    long = pd.concat([white_box] * 10, ignore_index=True)
    assert len(drop_chart(long).axes[0].get_yticklabels()) == MOST
    assert drop_chart(white_box.iloc[:0]) is None


def test_curves_repeat_byte_by_byte(white_box, transfer):
    for draw in (lambda: budget_curves(white_box), lambda: distortion_curves(white_box), lambda: drop_chart(white_box),
                 lambda: transfer_heatmaps(white_box, transfer)):  # fmt: skip
        assert encode(draw(), "svg") == encode(draw(), "svg")
