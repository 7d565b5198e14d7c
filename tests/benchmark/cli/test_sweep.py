"""A file of options is the command line, crossed; its mistakes are told by line, before anything is computed."""

from __future__ import annotations

import shlex
import signal

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.cli.commands import run as running
from robustvox.benchmark.cli.sweep import read_sweep
from robustvox.benchmark.harness.cluster import Tally
from robustvox.benchmark.specs.crossing import Computing, Crossing, Writing
from robustvox.benchmark.specs.requests import RunRequest
from robustvox.benchmark.specs.spec import UsageError


def typed(**crossing) -> RunRequest:
    return RunRequest(crossing=Crossing(**crossing), computing=Computing(), writing=Writing())


@pytest.fixture
def sweep(tmp_path):
    def write(text: str):
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return path

    return write


def test_lists_are_crossed_and_what_is_typed_wins(sweep) -> None:
    path = sweep(
        "model: [unet, segresnet]\nattack:\n  - fgsm\n  - pgd:eps=4/255\ndataset: [phantom, btcv]\n"
        "protocol: [robustvox-1, bmvc2024]\ncases: 2\nwait: 5\nreport: false\nseed: 3\n"
    )
    runs = read_sweep(path, typed(seed=7)).runs
    assert [(r.crossing.dataset, r.crossing.protocol) for r in runs] == [
        ("phantom", "robustvox-1"), ("phantom", "bmvc2024"), ("btcv", "robustvox-1"), ("btcv", "bmvc2024"),
    ]  # fmt: skip
    first = runs[0]
    assert first.crossing.models == ("unet", "segresnet")
    assert first.crossing.attacks == ("fgsm", "pgd:eps=4/255")
    assert (first.crossing.cases, first.crossing.seed, first.computing.wait) == ("2", 7, 5.0)
    assert first.writing.report is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: unet\ncsaes: 2\n", ":2: no option is called 'csaes'; did you mean cases?"),
        ("model: unet\nattack: [fgsm,\n  pdg]\n", ":3: unknown attack 'pdg'; did you mean pgd?"),
        ("model: unet\nattack: fgsm\nseed: many\n", ":3: expected a whole number, got 'many'"),
        ("model: unet\nattack: fgsm\nworkers: -1\n", ":3: expected at least 0"),
        ("model: unet\nuntrained: maybe\n", ":2: expected true or false"),
        ("model: unet\nmodel: unet\n", ":2: expected model once, it stands in line 1 too"),
        ("model: {a: 1}\n", ":1: expected one value or a list"),
        ("model:\n", ":1: expected one value or a list"),
        ("model: []\n", ":1: expected a value of model"),
        ("model: [unet\nattack: fgsm\n", ":2: expected YAML"),
        ("- unet\n", ":1: expected options"),
        ("", ":1: expected options"),
        ("attack: fgsm\nmodel: unet\nprotocol: robustvox-9\n", ":3: "),
        ("attack: fgsm\nmodel: unet\ndataset: nowhere\n", ":3: "),
        ("model: unet\nattack: fgsm\nconfig: other.yaml\n", ":3: no option is called 'config'"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(sweep, capsys, text: str, said: str) -> None:
    assert main(["--config", str(sweep(text))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"sweep.yaml{said}" in line


def test_no_file_is_one_line(tmp_path, capsys) -> None:
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_lists_of_lists_are_refused(sweep) -> None:
    with pytest.raises(UsageError, match=":1: expected one value"):
        read_sweep(sweep("model: [[unet]]\n"), typed())


def test_a_sweep_computes_what_its_runs_compute(toy, sweep, capsys) -> None:
    checkpoint = toy.checkpoints["unet"]
    path = sweep(
        f"model: unet\ncheckpoint: {checkpoint}\nattack: gn\ndataset: {toy.folder}\nsplit: all\ncases: 2\n"
        f"out: {toy.root / 'results'}\nseed: [0, 1]\nreport: false\n"
    )
    assert main(["--config", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("gn:std=8/255: at most 2 passes a case") == 2
    assert shown.count("4 volumes, at most 4 passes, about") == 2
    assert not (toy.root / "results").exists()
    assert main(["--config", str(path)]) == 0
    assert capsys.readouterr().out.count("4 computed, 0 already recorded") == 2


@pytest.mark.parametrize(
    ("words", "found"), [("robustvox lea", "leaderboard"), ("robustvox run --mod", "--model")]
)
def test_a_shell_completes(words, found, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/robustvox"])
    monkeypatch.setenv("_ROBUSTVOX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    assert found in capsys.readouterr().out.split()


def test_quiet_and_verbose(toy, capsys) -> None:
    assert toy("--attack", "gn", "--quiet") == 0
    out, err = capsys.readouterr()
    assert "gn" in out
    assert "computed" not in out
    assert err == ""
    assert toy("--attack", "gn", "-v") == 0
    assert capsys.readouterr().err.count("recorded: toy") == 6
    assert toy("--attack", "gn", "-v", "-q") == 2


def test_who_stops_a_run_can_paste_what_goes_on(monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "sys.argv", ["/bin/robustvox", "--model", "unet", "--out", "my runs", "--split", "all"]
    )
    tally = Tally(8, done=3)
    tally.doing = lambda: "val_000: pgd on unet, step 3 of 20"
    with pytest.raises(KeyboardInterrupt), running._told_where(tally, quiet=False):
        signal.raise_signal(signal.SIGINT)
    where, command = capsys.readouterr().err.splitlines()
    assert where == "stopped after 3 of 8, in val_000: pgd on unet, step 3 of 20"
    assert shlex.split(command.removeprefix("to go on: ")) == [
        "robustvox", "--model", "unet", "--out", "my runs", "--split", "all",
    ]  # fmt: skip
