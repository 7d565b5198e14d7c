"""The report of a run: what it holds, that it is inert, and that it can never spoil a run."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from types import MappingProxyType

import numpy as np
import pytest
import torch

from robustvox.attacks import PGD
from robustvox.benchmark.cli import main
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.evaluation import _bare
from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.harness.execute import execute
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.records import outcomes as checks
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.report import gallery as gallery_module
from robustvox.benchmark.report.facts import Run
from robustvox.benchmark.report.gallery import FirstCase
from robustvox.benchmark.report.writing import render_report
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.datasets import IntensityWindow, Volume
from robustvox.models import SlidingWindow

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.sources, self.words = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        self.handlers = [name for name, _ in attrs if name.startswith("on")]
        assert not self.handlers

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """Pictures of a few pixels: what they show is tested where they are drawn."""
    monkeypatch.setattr("robustvox.benchmark.report.writing._DPI", 30)


def corner(png):
    """The color of a picture's first pixel."""
    from matplotlib.image import imread

    return tuple(round(255 * float(x)) for x in imread(io.BytesIO(png))[0, 0, :3])


def reports(folder):
    return sorted((folder / "reports").glob("*.html"))


def test_a_run_ends_with_its_report(toy, capsys):
    assert toy("--attack", "pgd:steps=2,alpha=4/255", "--attack", "gn", "--report") == 0
    (path,) = reports(toy.root / "results" / "toy")
    assert f"report: {path}" in capsys.readouterr().out
    page = Page(path.read_text(encoding="utf-8"))
    table = toy.table()
    for row in table.to_dict("records"):
        assert f"{row['dice_adv']:.3f}" in page.text
        assert (row["dice_adv_low"], row["n_cases"]) == ("", 3)  # too few for an interval
        assert row["attack"] in page.text
    for said in ("3 cases", "9 computed", "0 failed", f"torch {version('torch')}", "commit", "not checked yet",
                 "python -m benchmark check --model unet", "case_000, case_001, case_002"):  # fmt: skip
        assert said in page.text, said
    heads = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", path.read_text(encoding="utf-8"))
    start = heads.index("Dice attacked")  # flags are in sight, however wide the table is
    assert heads[start : start + 4] == ["Dice attacked", "95% interval", "checks", "flags"]
    # The chart is drawn in the page's own colors; the slices come for a light and for a dark page.
    assert page.tags.count("circle") == 2 * len(table)
    kinds = [source.partition(";")[0] for source in page.sources]
    assert kinds == ["data:image/png", "data:image/png"]
    light, dark = (base64.b64decode(source.partition(",")[2]) for source in page.sources)
    assert light.startswith(b"\x89PNG")
    assert dark.startswith(b"\x89PNG")
    assert (corner(light), corner(dark)) == ((255, 255, 255), (22, 24, 27))
    assert "http" not in re.sub(r'src="data:[^"]*"', "", path.read_text()).replace("http-equiv", "")
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0


def test_every_run_has_a_report_of_its_own(toy):
    for _ in range(2):
        assert toy("--attack", "gn", "--report") == 0
    first, second = (
        Page(path.read_text())
        for path in sorted(reports(toy.root / "results" / "toy"), key=lambda p: p.stat().st_mtime_ns)
    )
    assert "6 computed 0 already recorded" in first.text
    assert "0 computed 6 already recorded" in second.text
    assert "No slices: this process attacked no 3D volume" in second.text


def test_an_attack_on_known_clean_images_is_shown_too(toy):
    toy.recorded("--attack", "gn")
    toy("--attack", "fgsm", "--report")
    (path,) = reports(toy.root / "results" / "toy")
    assert sum(s.startswith("data:image/png") for s in Page(path.read_text()).sources) == 2


def test_a_failed_case_appears_with_its_reason(toy):
    path = toy.folder / "imagesTr" / "case_001.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert toy("--attack", "gn", "--report") == 1
    (path,) = reports(toy.root / "results" / "toy")
    page = Page(path.read_text())
    (failure,) = (
        load_records(toy.root / "results" / "toy" / "records")
        .failures.query("attack != 'none'")
        .to_dict("records")
    )
    assert failure["case"] == "case_001"
    assert " ".join(failure["error"].split()) in page.text
    assert "2 failed" in page.text
    assert "clean image on unet; gn:std=8/255 on unet" in page.text
    assert page.text.count("case_001: expected") == 1


def test_known_checks_are_shown(toy):
    toy.recorded("--attack", "gn")
    costs = load_records(toy.root / "results" / "toy" / "records").costs
    identity = costs[costs["attack"] != "none"].iloc[0]
    line = {
        **{key: identity[key] for key in checks.KEYS}, "surrogate": "unet", "check": "C8", "slug": "queries",
        "status": "fail", "flag": "C8:fail", "number": 0.5, "rule": "at most 0.02", "detail": "half <b>lower</b>",
        "cases": [], "seed": 0, "queries": 10, "robustvox": "0", "commit": "0", "torch": "0",
    }  # fmt: skip
    checks.save(toy.root / "results" / "toy" / "checks", [checks.CheckOutcome(**line)])
    toy("--attack", "gn", "--report")
    page = Page(reports(toy.root / "results" / "toy")[0].read_text())
    assert "1 known C8:fail" in page.text
    assert "half <b>lower</b>" in page.text
    assert page.text.count("C8:fail") == 2  # beside the check, and in the row of the table


def test_a_missing_library_never_spoils_a_run(toy, monkeypatch):
    for name in [n for n in sys.modules if n == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert toy("--attack", "gn", "--cases", "case_000", "--report") == 0
    assert len(toy.table()) == 1
    assert "figures need matplotlib" in Page(reports(toy.root / "results" / "toy")[0].read_text()).text


def test_a_report_that_fails_is_one_line_and_keeps_the_exit_code(toy, monkeypatch, capsys):
    monkeypatch.setattr("robustvox.benchmark.report.writing.render_report", lambda run: 1 / 0)
    assert toy("--attack", "gn", "--cases", "case_000", "--report") == 0
    printed = capsys.readouterr().out
    assert "warning no report: ZeroDivisionError: division by zero\n" in printed
    assert len(toy.table()) == 1
    assert toy("--attack", "gn", "--cases", "case_000", "--no-report") == 0
    assert "report: " not in capsys.readouterr().out


@pytest.fixture
def evil(tmp_path):
    """A finished run whose every name is markup, with one failed case."""
    label = np.zeros((8, 9, 7), np.int64)
    label[2:6, 2:6, 2:6] = 1
    volumes = [
        Volume(f"{EVIL}{i}", (label[None] * 0.5).astype(np.float32), label * (1 + 5 * i), (1.0, 1.0, 2.0),
               np.diag([1.0, 1.0, 2.0, 1.0]), IntensityWindow(0.0, 1.0))
        for i in range(2)
    ]  # fmt: skip
    dataset = dataclasses.replace(
        _bare(volumes[:1], 2, (8, 8, 8)), name=EVIL, volumes=MappingProxyType({v.id: v for v in volumes})
    )
    predictor = SlidingWindow(torch.nn.Conv3d(1, 2, 1), (8, 8, 8), 0.5, 1, "gaussian").eval()
    model = NamedModel(EVIL, "ab", predictor, (EVIL,))
    watch = FirstCase()
    plan = Plan(
        dataset=dataset, cases=tuple(v.id for v in volumes), surrogates=[model], targets=[model],
        attacks=[NamedAttack(f"{EVIL}:steps=1", PGD(steps=1, alpha=8 / 255))], protocol=PROTOCOLS["robustvox-1"],
    )  # fmt: skip
    bench = Bench(plan, watch=watch)
    with RecordStore(tmp_path / "records") as store:
        events = list(execute(bench, store, "0123456789abcdef"))
    environment = {
        "command": f"python {EVIL}", "robustvox": EVIL, "commit": EVIL, "python": EVIL, "packages": {EVIL: EVIL},
        "platform": EVIL, "accelerator": EVIL, "cores": 1, "threads": 1,
    }  # fmt: skip
    return Run(
        bench=bench, events=events, records=load_records(tmp_path / "records"), environment=environment,
        provenance="0123456789abcdef", out=tmp_path, started=0.0, seconds=1.0, gallery=watch,
    )  # fmt: skip


def test_names_are_text_whatever_they_hold(evil):
    assert [event.status for event in evil.events] == ["computed", "computed", "failed", "failed"]
    evil.reports.mkdir(parents=True)
    for name in (
        'view_"><img src=x onerror=alert(1)>.html',
        "view_case_1.html",
        "view_.html",
        "review_a.html",
    ):
        (evil.reports / name).touch()
    text = render_report(evil)
    page = Page(text)
    assert "script" not in page.tags
    assert EVIL not in text
    assert page.text.count(EVIL) > 20
    pictures, links = (
        [s for s in page.sources if s.startswith("data:image/") == kind] for kind in (True, False)
    )
    assert len(pictures) == 2
    assert links == ["./view_%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.html", "./view_case_1.html"]
    assert '"><img src=x onerror=alert(1)>' in page.text
    assert "circle" in page.tags


def test_the_gallery_keeps_the_worst_attack_of_the_first_case(evil):
    gallery = FirstCase()
    seen = []
    bench = Bench(evil.bench.plan, watch=seen.append)
    clean, attacked = list(bench.plan.jobs())[:2]
    for job in (clean, attacked):
        bench.run(job)
    label = bench.case(clean.case).volume.label
    perfect = dataclasses.replace(seen[1], prediction=label)
    wrong = dataclasses.replace(seen[1], prediction=1 - label)
    other = dataclasses.replace(wrong, job=dataclasses.replace(attacked, case="another"))
    for scored in (perfect, wrong, perfect, other):
        gallery(scored)
    assert gallery.attacked is wrong
    # Never seen: computed where a forward is quick, left out where it is slow or unknown.
    assert np.array_equal(gallery.clean(bench, 0.1).prediction, seen[0].prediction)
    assert gallery.clean(bench, 100.0) is None
    assert gallery.clean(bench, float("nan")) is None
    gallery(seen[0])
    assert gallery.clean(bench, float("nan")) is seen[0]


def test_a_huge_volume_is_not_drawn(evil, monkeypatch):
    monkeypatch.setattr(gallery_module, "LARGEST", 10)
    gallery = FirstCase()
    attacked = evil.gallery.attacked
    gallery(attacked)
    assert gallery.attacked is None
    assert "No slices" in Page(render_report(dataclasses.replace(evil, gallery=gallery))).text
