"""torchattacks in our harness: what runs is right, what is not is refused, nothing leaks."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import pickle
import subprocess
import sys
import textwrap
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustvox.attacks import ATTACKS
from robustvox.attacks.base import ball
from robustvox.attacks.interop import REFUSED, SUPPORTED, TorchAttack

torchattacks = pytest.importorskip("torchattacks")

LINF = [name for name, norm in SUPPORTED.items() if norm == "linf"]
UNTARGETED = ["GN", "TPGD", "VANILA"]
RANK_FREE = ["FGSM", "BIM", "RFGSM", "PGD", "EOTPGD", "FFGSM", "TPGD", "GN", "VANILA"]
#: forwards and backwards at two steps (two repeats or neighbors, five scales)
PASSES = {
    "FGSM": (1, 1),
    "BIM": (2, 2),
    "RFGSM": (2, 2),
    "PGD": (2, 2),
    "EOTPGD": (4, 4),
    "FFGSM": (1, 1),
    "TPGD": (3, 2),
    "UPGD": (2, 2),
    "MIFGSM": (2, 2),
    "NIFGSM": (2, 2),
    "SINIFGSM": (10, 10),
    "VMIFGSM": (12, 12),
    "VNIFGSM": (12, 12),
    "PGDL2": (2, 2),
    "GN": (0, 0),
    "VANILA": (0, 0),
}


def small(name: str, **parameters) -> TorchAttack:
    if "steps" in dict(TorchAttack(name=name).parameters):
        parameters = {"steps": 2, **parameters}
    return TorchAttack(name=name, parameters=parameters)


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_seed(source: torch.Generator) -> int:
    """What `Attack.__call__` draws for the first sample."""
    return int(torch.randint(2**63 - 1, (), generator=source, dtype=torch.int64))


# --- which of theirs -------------------------------------------------------------------------------


def test_every_attack_of_theirs_is_decided():
    assert set(SUPPORTED).isdisjoint(REFUSED)
    assert set(SUPPORTED) | set(REFUSED) == set(torchattacks.__all__)
    assert set(PASSES) == set(SUPPORTED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_others_are_refused_by_name_with_the_reason(name):
    for written in (name, name.lower(), name.upper()):
        with pytest.raises(ValueError, match=f"^{name}: expected an attack that suits volumes") as error:
            TorchAttack(name=written)
        assert REFUSED[name] in str(error.value)


def test_the_alternatives_that_refusals_name_exist():
    named = {reason.rpartition("; use ")[2].split()[0] for reason in REFUSED.values() if "; use " in reason}
    assert named
    assert named <= {*ATTACKS, *SUPPORTED}


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"LGV", "MultiAttack"}))
def test_what_is_refused_does_not_run_on_volumes(name, make_case, capsys):
    # Three channels, on which some insist. The ones that want one label fail on 2D segmentations too.
    spatial = [(8, 8, 8)] if "2D" in REFUSED[name] else [(8, 8, 8), (8, 8)]
    for shape in spatial:
        model, images, labels = make_case(shape, batch=1, channels=3, classes=4)
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            getattr(torchattacks, name)(model)(images, labels[:, 0])


@pytest.mark.parametrize("name", ["MIFGSM", "mifgsm", "MI-FGSM", "mi_fgsm"])
def test_names_forgive_case_and_dashes(name):
    assert TorchAttack(name=name) == TorchAttack(name="MIFGSM")


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("MIFGMS", {}, "name: expected one of .*MIFGSM.* got 'MIFGMS'. Did you mean MIFGSM?"),
        ("zzz", {}, "got 'zzz'. Pick one of these"),
        (None, {}, "got None"),
        ("MIFGSM", {"step": 3}, r"step: expected a parameter of MIFGSM \(.*\), .* Did you mean steps?"),
        ("FGSM", {"momentum": 3}, r"momentum: expected a parameter of FGSM \(eps\), .* Drop it"),
        ("FGSM", {"model": None}, "model: expected a parameter"),
        ("MIFGSM", {"eps": 8}, "eps: .* 8/255"),
        ("MIFGSM", {"eps": "8/255"}, "eps: expected a number"),
        ("MIFGSM", {"alpha": -0.1}, "alpha: "),
        ("MIFGSM", {"decay": float("nan")}, "decay: "),
        ("MIFGSM", {"steps": 2.5}, "steps: expected an integer"),
        ("VMIFGSM", {"N": 0}, "N: expected an integer >= 1"),
        ("PGD", {"random_start": 1}, "random_start: expected True or False"),
        ("UPGD", {"loss": "dlr"}, "loss: expected one of 'ce'"),
        ("PGDL2", {"eps": -1}, "eps: "),
    ],
)
def test_bad_names_and_parameters_are_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        TorchAttack(name=name, parameters=parameters)


def test_is_a_value():
    attack = TorchAttack(name="mifgsm", parameters={"steps": 3})
    assert attack.parameters == (("alpha", 2 / 255), ("decay", 1.0), ("eps", 8 / 255), ("steps", 3))
    same = TorchAttack(name="MIFGSM", parameters=(("eps", 8 / 255), ("steps", 3)))
    assert attack == same == pickle.loads(pickle.dumps(attack)) == copy.deepcopy(attack)
    assert hash(attack) == hash(same)
    assert TorchAttack(**json.loads(json.dumps(dataclasses.asdict(attack)))) == attack
    assert attack != dataclasses.replace(attack, parameters={"steps": 4})
    assert attack.radius == 8 / 255
    assert TorchAttack(name="PGDL2").radius is None


# --- what it does ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spatial", [(6, 7, 5), (9, 4)])
@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_result_is_valid_and_the_batch_is_its_items(name, spatial, dtype, make_case):
    model, images, labels = make_case(spatial, channels=2, batch=3, dtype=dtype)
    attack = small(name)
    result = attack(model, images, labels, generator=generator())
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(result, images) == (name == "VANILA")
    if attack.radius is not None:
        assert (result - images).abs().max() <= attack.radius
    one_by_one = generator()
    for i in range(3):
        alone = attack(model, images[i : i + 1], labels[i : i + 1], generator=one_by_one)
        assert torch.equal(result[i : i + 1], alone)


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_counts_their_passes_and_leaves_everything_else_alone(name, make_case, capsys):
    model, images, labels = make_case(batch=1)
    model.train()
    model.body[0].eval()
    parameters = {"eot_iter": 2} if name == "EOTPGD" else {}
    before = torch.get_rng_state(), copy.deepcopy(model.state_dict()), images.clone(), labels.clone()
    small(name, **parameters)(model, images, labels)
    assert (model.forwards, model.backwards) == PASSES[name]
    assert torch.equal(before[0], torch.get_rng_state())
    assert all(torch.equal(before[1][key], value) for key, value in model.state_dict().items())
    assert torch.equal(before[2], images)
    assert torch.equal(before[3], labels)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training
    assert model.body[1].training
    assert not model.body[0].training
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", RANK_FREE)
def test_is_their_attack_bit_for_bit(name, make_case):
    model, images, labels = make_case(batch=1, channels=2)
    attack = small(name)
    result = attack(model, images, labels, generator=generator())
    with torch.random.fork_rng():
        torch.manual_seed(first_seed(generator()))
        direct = getattr(torchattacks, name)(model.eval(), **dict(attack.parameters))(images, labels[:, 0])
    # Ours pulls rounding back into the ball.
    assert (result - direct).abs().max() <= 1e-7
    assert torch.equal(result, direct.clamp(*ball(images, 1.0 if attack.radius is None else attack.radius)))


def momentum_by_definition(model, images, labels, eps, alpha, steps, decay, *, nesterov):
    """MI-FGSM, arXiv 1710.06081, and NI-FGSM, arXiv 1908.06281, with the L1 norm of the whole sample."""
    x, g = images, torch.zeros_like(images)
    for _ in range(steps):
        x.requires_grad_()
        ahead = x + alpha * decay * g if nesterov else x
        gradient = torch.autograd.grad(F.cross_entropy(model(ahead), labels[:, 0]), x)[0]
        # Their norm is the mean: the momentum is N times the paper's, which the look-ahead of NI-FGSM feels.
        g = decay * g + gradient / gradient.abs().flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        x = (x + alpha * g.sign()).detach().clamp(images - eps, images + eps).clamp(0, 1)
    return x


@pytest.mark.parametrize("name", ["MIFGSM", "NIFGSM"])
def test_momentum_is_normalized_over_the_whole_volume(name, make_case):
    model, images, labels = make_case((6, 7, 5), batch=1, channels=2, dtype=torch.float64)
    images = images * torch.linspace(0.05, 1, 5, dtype=torch.float64)  # slices with unlike gradients
    settings = {"eps": 0.05, "alpha": 0.01, "steps": 8, "decay": 1.0}
    expected = momentum_by_definition(model.eval(), images, labels, **settings, nesterov=name == "NIFGSM")
    result = TorchAttack(name=name, parameters=settings)(model, images, labels)
    assert torch.allclose(result, expected, rtol=0, atol=1e-9)
    # Without folding, the mean over the axes (1, 2, 3) leaves one norm per slice of the last axis.
    unfolded = getattr(torchattacks, name)(model.eval(), **settings)(images, labels[:, 0])
    assert (unfolded - expected).abs().max() > 0.009


@pytest.mark.parametrize("name", ["UPGD", "SINIFGSM", "VMIFGSM", "VNIFGSM", "PGDL2"])
def test_folding_is_undone_for_the_model(name, make_case):
    # A pointwise network on a volume is the same network on the image of its voxels.
    model, images, labels = make_case(batch=1, channels=2, pointwise=True, dtype=torch.float64)
    flat, _, _ = make_case((6, 35), batch=1, channels=2, pointwise=True, dtype=torch.float64)
    flat.load_state_dict({k: v.reshape(flat.state_dict()[k].shape) for k, v in model.state_dict().items()})
    attack = small(name)
    result = attack(model, images, labels, generator=generator())
    with torch.random.fork_rng():
        torch.manual_seed(first_seed(generator()))
        theirs = getattr(torchattacks, name)(flat.eval(), **dict(attack.parameters))
        expected = theirs(images.reshape(1, 2, 6, 35), labels.reshape(1, 6, 35)).reshape(images.shape)
    assert torch.allclose(result, expected, rtol=0, atol=1e-9)
    if name == "PGDL2":
        assert torch.linalg.vector_norm(result - images) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("name", "key", "shared"),
    [
        ("FGSM", "fgsm", {"eps": 0.03}),
        ("BIM", "bim", {"eps": 0.03, "alpha": 0.004, "steps": 10}),
        ("PGD", "pgd", {"eps": 0.03, "alpha": 0.004, "steps": 10, "random_start": False}),
    ],
)
def test_agrees_with_ours_where_the_last_iterate_is_the_best(name, key, shared):
    torch.manual_seed(0)
    model = nn.Conv3d(1, 2, 1).double()
    images = torch.rand(2, 1, 5, 6, 7, dtype=torch.float64)
    labels = torch.randint(0, 2, images.shape)
    theirs = TorchAttack(name=name, parameters=shared)(model, images, labels)
    ours = ATTACKS[key](**shared, loss="ce")(model, images, labels)
    assert torch.allclose(theirs, ours, rtol=0, atol=1e-12)
    assert (theirs - images).abs().max() > 0.029


@pytest.mark.parametrize("name", ["FGSM", "MIFGSM", "TPGD"])
def test_masked_voxels_give_no_gradient(name, make_case):
    model, images, labels = make_case(batch=2, pointwise=True, dtype=torch.float64)
    mask = torch.rand(labels.shape, generator=generator()) > 0.4
    attack = small(name)
    everywhere = attack(model, images, labels)
    masked = attack(model, images, labels, mask=mask)
    assert torch.equal(masked[mask], everywhere[mask])
    if name == "TPGD":  # its start is random
        assert (masked - images)[~mask].abs().max() < 0.01 < (everywhere - images)[~mask].abs().max()
    else:
        assert torch.equal(masked[~mask], images[~mask])
        assert not torch.equal(everywhere[~mask], images[~mask])


@pytest.mark.parametrize("name", sorted(set(SUPPORTED) - set(UNTARGETED)))
def test_follows_targets(name, make_case):
    model, images, labels = make_case(batch=2)
    targets = (labels + 1) % 3

    def distance(volumes):
        return F.cross_entropy(model(volumes), targets[:, 0]).item()

    result = small(name)(model, images, labels, targets=targets)
    assert distance(result) < distance(images) - 0.01
    assert distance(small(name)(model, images, labels)) > distance(result)


@pytest.mark.parametrize("name", UNTARGETED)
def test_refuses_targets_that_nothing_follows(name, make_case):
    model, images, labels = make_case()
    with pytest.raises(ValueError, match=f"targets: expected None for torchattacks {name}"):
        small(name)(model, images, labels, targets=(labels + 1) % 3)


def test_an_observer_costs_no_forward_and_sees_nothing(make_case):
    counts, seen = [], []
    for on_step in (None, seen.append):
        case = make_case()
        small("MIFGSM")(*case, on_step=on_step)
        counts.append(case.model.forwards)
    assert counts[0] == counts[1]
    assert not seen


def test_zero_budget_returns_the_same_bits(make_case):
    model, images, labels = make_case()
    for name in LINF:
        assert torch.equal(small(name, eps=0.0)(model, images, labels), images)


def test_a_dead_gradient_moves_nothing(make_case):
    _, images, labels = make_case()
    flat = nn.Conv3d(1, 3, 1)
    nn.init.zeros_(flat.weight)
    for name in ("FGSM", "MIFGSM", "NIFGSM", "PGDL2"):
        parameters = {"random_start": False} if name == "PGDL2" else {}
        assert torch.equal(small(name, **parameters)(flat, images, labels), images)


@pytest.mark.parametrize("name", sorted(set(SUPPORTED) - {"GN", "VANILA"}))
def test_bad_models_are_refused(name, make_case):
    model, images, labels = make_case()
    with pytest.raises(ValueError, match="logits connected to the images"):
        small(name)(lambda x: model(x).detach(), images, labels)
    with pytest.raises(ValueError, match="got probabilities"):
        small(name)(lambda x: model(x).softmax(1), images, labels)
    with pytest.raises(TypeError, match="got tuple"):
        small(name)(lambda x: (model(x),), images, labels)


def test_global_state_survives_an_error(make_case):
    _, images, labels = make_case()
    before = torch.get_rng_state()

    def broken(images):
        torch.rand(3)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        small("PGD")(broken, images, labels)
    assert torch.equal(before, torch.get_rng_state())


def test_keeps_no_volume_and_no_model_alive(make_case):
    model, images, labels = make_case(batch=1)
    seen = weakref.WeakSet()

    def watch(volumes):
        seen.add(volumes)
        return model(volumes)

    small("PGD")(watch, images, labels)
    gone = weakref.ref(watch)
    del watch
    gc.collect()
    assert gone() is None
    assert not seen


def test_torchattacks_is_imported_on_use_only():
    code = """
        import sys, warnings
        warnings.simplefilter("ignore")
        sys.modules["torchattacks"] = None
        import robustvox.attacks
        from robustvox.attacks import ATTACKS, PGD
        from robustvox.attacks.interop import TorchAttack, as_torchattacks
        calls = [lambda: TorchAttack(name="PGD"), lambda: as_torchattacks(PGD(), abs)]
        for call in calls:
            try:
                call()
            except ImportError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'robustvox[torchattacks]'" in line for line in lines)
