"""`evaluate(progress=)` tells where it stands, and changes no number."""

from __future__ import annotations

import pandas as pd
import pytest

from robustvox.attacks import FGSM, PGD
from robustvox.benchmark import evaluate

from ..test_evaluation import Threshold, bright_cube

GIVEN = {"num_classes": 2, "roi_size": (8, 8, 8)}
ATTACKS = {"fgsm": FGSM(eps=0.1), "pgd": PGD(eps=0.1, alpha=0.05, steps=3)}


def test_a_function_hears_every_volume() -> None:
    heard = []
    volumes = [bright_cube("a"), bright_cube("b")]
    told = evaluate({"net": Threshold()}, ATTACKS, volumes, progress=heard.append, **GIVEN)
    assert [standing.done for standing in heard] == [1, 2, 3, 4, 5, 6]
    assert {standing.total for standing in heard} == {6}
    # From the clean image on, whose forward is measured: before the first step of an attack.
    assert all(standing.seconds_left is not None for standing in heard)
    assert heard[-1].seconds_left == pytest.approx(0.0, abs=1e-6)
    assert heard[-1].doing.startswith("b: pgd")
    quiet = evaluate({"net": Threshold()}, ATTACKS, volumes, **GIVEN)
    same = [column for column in quiet.table.columns if column != "seconds"]
    pd.testing.assert_frame_equal(told.table[same], quiet.table[same])


def test_a_bar_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate({"net": Threshold()}, ATTACKS, [bright_cube("a")], progress=True, **GIVEN)
    out, err = capsys.readouterr()
    assert "3/3" in out + err
