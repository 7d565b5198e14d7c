"""A training that is stopped and goes on, one that is watched, and what the command line makes of both."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.plan.models import load_model
from robustvox.benchmark.report.training import described, write_training_report
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import Spec, UsageError
from robustvox.benchmark.training import train as training
from robustvox.benchmark.training.defences import build_defence
from robustvox.benchmark.training.recipe import Recipe
from robustvox.benchmark.training.train import Watching, train
from robustvox.benchmark.training.watch import Look, catastrophic
from robustvox.benchmark.training.windows import WindowStream
from robustvox.datasets import open_dataset
from robustvox.models import load_checkpoint, read_card

from .test_defences import SMALL, samples

MODEL = Spec.parse("unet:channels=(4,8),num_res_units=1")
RECIPE = Recipe(steps=8, batch_size=2, lr=1e-2)
WATCHING = Watching(cases=1, looks=2)


RESUME = training.Resume


class StoppedError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture
def folder(msd_folder):
    return open_dataset(msd_folder(4))


def run(folder, tmp_path, name="model", *, defence="", **more):
    built = {"defence": build_defence(Spec.parse(defence), load_attack)} if defence else {}
    return train(
        MODEL, folder, path=tmp_path / f"{name}.safetensors", roi_size=(16, 16, 16),
        **{"recipe": RECIPE, "watching": WATCHING, **built, **more},
    )  # fmt: skip


def weights(tmp_path, name):
    return load_checkpoint(tmp_path / f"{name}.safetensors").network.state_dict()


@pytest.mark.parametrize(
    "name",
    ["", "pgd_at", *(pytest.param(name, marks=pytest.mark.slow) for name in ("free", "adaptive", "corrupt"))],
)
def test_a_resumed_training_equals_an_uninterrupted_one(folder, tmp_path, monkeypatch, name):
    defence = SMALL[name][0] if name else ""
    monkeypatch.setattr(training, "Resume", lambda **k: RESUME(**k, every=2))
    whole = run(folder, tmp_path, "whole", defence=defence)
    state = tmp_path / "part.state"

    def stop(progress):
        if progress.step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(folder, tmp_path, "part", defence=defence, state=state, on_step=stop)
    assert state.is_file()
    torch.manual_seed(99)  # a new process stands elsewhere
    steps = []
    part = run(folder, tmp_path, "part", defence=defence, state=state, on_step=lambda p: steps.append(p.step))
    assert steps == [5, 6, 7, 8]
    assert not state.exists()
    first, second = weights(tmp_path, "whole"), weights(tmp_path, "part")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert part.gradients == whole.gradients
    assert [replace(look, seconds=0) for look in part.looks] == [
        replace(look, seconds=0) for look in whole.looks
    ]


def test_a_state_of_another_training_is_left_alone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Resume", lambda **k: RESUME(**k, every=2))
    state = tmp_path / "part.state"

    def stop(progress):
        if progress.step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(folder, tmp_path, "part", state=state, on_step=stop)
    steps = []
    run(folder, tmp_path, "part", state=state, seed=1, on_step=lambda p: steps.append(p.step))
    assert steps[0] == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04torn", b"\x80\x04K\x05."])
def test_a_damaged_state_is_one_line(folder, tmp_path, content):
    state = tmp_path / "part.state"
    state.write_bytes(content)
    with pytest.raises(
        ValueError, match="expected the state of an unfinished training in part.state"
    ) as error:
        run(folder, tmp_path, "part", state=state)
    assert "\n" not in str(error.value)


def test_the_kept_weights_are_those_of_the_best_robust_look(folder, tmp_path):
    trained = run(folder, tmp_path, defence="pgd_at:steps=1")
    assert [look.step for look in trained.looks] == [0, 4, 8]
    selected = trained.card.recipe["selected"]
    assert selected["pgd"] == max(look.pgd for look in trained.looks)
    assert trained.looks[-1].outer == trained.gradients.outer == 16
    assert trained.looks[-1].inner == trained.gradients.inner == 8
    assert read_card(tmp_path / "model.safetensors").defence == "pgd_at"


def test_a_training_that_gets_worse_keeps_where_it_started(folder, tmp_path):
    run(folder, tmp_path, "start", recipe=replace(RECIPE, steps=40))
    start = tmp_path / "start.safetensors"
    wild = replace(RECIPE, steps=2, lr=10.0)
    trained = run(folder, tmp_path, "wild", defence="pgd_at:steps=1", start=start, recipe=wild)
    assert trained.card.recipe["selected"]["step"] == 0
    before, after = weights(tmp_path, "start"), weights(tmp_path, "wild")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert trained.card.recipe["start"] == load_checkpoint(start).sha256


def test_a_control_keeps_what_it_has_become(folder, tmp_path):
    """Its question is what the training does; the best weights may be those it began with."""
    trained = run(folder, tmp_path, defence="noise", recipe=replace(RECIPE, steps=4, lr=1.0))
    assert trained.card.recipe["selected"]["step"] == 4
    assert trained.card.recipe["selected"]["rule"] == "last"


def test_looks_do_not_change_what_is_learned(folder, tmp_path):
    """Half as many looks, the same weights at the end."""
    seen = {}
    for looks in (1, 4):
        trained = run(folder, tmp_path, defence="noise", watching=Watching(cases=1, looks=looks))
        seen[looks] = trained.looks[-1]
    assert seen[1].pgd == seen[4].pgd
    assert seen[1].step == seen[4].step == 8


def test_catastrophic_overfitting_is_said():
    start = Look(step=0, clean=0.9, fgsm=0.7, pgd=0.6)
    assert catastrophic([start, Look(step=5, clean=0.9, fgsm=0.88, pgd=0.1)])
    assert not catastrophic([start, Look(step=5, clean=0.9, fgsm=0.8, pgd=0.79)])
    assert not catastrophic([start])


def test_the_report_has_every_look_and_a_picture(folder, tmp_path):
    trained = run(folder, tmp_path, defence="trades:steps=1")
    picture = write_training_report(tmp_path / "report", "unet@trades", trained)
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "report" / "unet@trades.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 4, 8]
    assert sum("kept" in line for line in described(trained)) == 1


def test_a_pass_over_the_samples_is_an_epoch():
    stream = WindowStream(samples(3), (8, 8, 8), Recipe(batch_size=2), 0)
    draws = [draw for _ in range(3) for draw in next(stream).draws]
    assert [draw.epoch for draw in draws] == [0, 0, 0, 1, 1, 1]
    assert {draw.case for draw in draws[:3]} == {"case_0", "case_1", "case_2"}


def test_the_command_line_trains_resumes_and_names(msd_folder, tmp_path, capsys):
    data = msd_folder(4)
    path = tmp_path / "unet.noise.safetensors"
    arguments = [
        "train", "--model", "unet:channels=(4,8),num_res_units=1", "--dataset", str(data), "--steps", "2",
        "--roi-size", "16", "--defence", "noise:eps=4/255", "--looks", "1", "--look-cases", "1",
        "--checkpoint", str(path), "--report", str(tmp_path / "report"),
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "PGD-10" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.state"))
    assert (tmp_path / "report" / "unet.noise.png").is_file()
    dataset, protocol = open_dataset(data), PROTOCOLS["robustvox-1"]
    for text in ("unet", "unet@noise", "UNet@Noise"):
        assert load_model(text, dataset, protocol, checkpoint=path).name == "unet@noise"
    with pytest.raises(UsageError, match="trained with pgd_at, found noise in the card"):
        load_model("unet@pgd_at", dataset, protocol, checkpoint=path)
    with pytest.raises(UsageError, match="expected a checkpoint of unet@pgd_at for"):
        load_model("unet@pgd_at", dataset, protocol)
    with pytest.raises(UsageError, match="drop the defence"):
        load_model("unet@pgd_at", dataset, protocol, untrained=True)


def test_attack_alone_is_adversarial_training_of_every_window(msd_folder, tmp_path, capsys):
    path = tmp_path / "unet.safetensors"
    arguments = [
        "train", "--model", "unet:channels=(4,8),num_res_units=1", "--dataset", str(msd_folder(4)), "--steps", "1",
        "--roi-size", "16", "--looks", "1", "--look-cases", "1", "--checkpoint", str(path),
        "--adversarial", "fgsm:eps=4/255",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert read_card(path).recipe["adversarial"] == "pgd_at:attack=fgsm,eps=4/255,loss=dice,share=1"
    assert main([*arguments, "--defence", "noise"]) == 2
    assert "expected --defence or --adversarial" in capsys.readouterr().err
