"""Every defence of the registry: what it leaves alone, and what it becomes when nothing is attacked."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss
from torch import nn

from robustvox.attacks import PGD
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.specs.defences import CATALOG, split_defence, split_hash
from robustvox.benchmark.specs.spec import Spec, UsageError
from robustvox.benchmark.training.consistency import Consistency
from robustvox.benchmark.training.defence import is_idle
from robustvox.benchmark.training.defences import DEFENCES, build_defence, next_radius
from robustvox.benchmark.training.losses import divergence, spectral_distance
from robustvox.benchmark.training.recipe import Recipe
from robustvox.benchmark.training.step import Gradients, Step
from robustvox.benchmark.training.train import optimize
from robustvox.benchmark.training.windows import Draw, Sample, Windows

SIDE = 8
#: what makes each defence small enough for a test, and what makes it do nothing
SMALL = {
    "pgd_at": ("pgd_at:steps=2", ["pgd_at:eps=0", "pgd_at:steps=0", "pgd_at:share=0"]),
    "trades": ("trades:steps=2", ["trades:beta=0", "trades:eps=0", "trades:steps=0"]),
    "vaft": ("vaft:block_size=4,steps=2", ["vaft:steps=0", "vaft:eps=0"]),
    "free": ("free:repeats=2", ["free:eps=0"]),
    "adaptive": ("adaptive:steps=2", ["adaptive:eps=0", "adaptive:steps=0", "adaptive:share=0"]),
    "noise": ("noise", ["noise:eps=0", "noise:share=0"]),
    "corrupt": ("corrupt", ["corrupt:share=0"]),
}
IDLE = [(name, text) for name, (_, texts) in SMALL.items() for text in texts]


def make(text: str):
    return build_defence(Spec.parse(text), load_attack).defence


def criterion():
    return DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)


def tiny() -> nn.Module:
    """With batch normalization and dropout: both would show an attack that runs in training mode."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv3d(4, 3, 1)
    )


def samples(count: int = 3) -> list[Sample]:
    rng = np.random.default_rng(1)
    made = []
    for number in range(count):
        target = np.zeros((1, SIDE, SIDE, SIDE), np.int64)
        target[0, 1:4, 2:6, 2:6], target[0, 4:7, 2:6, 2:6] = 1, 2
        image = np.clip(0.2 + 0.3 * target + 0.05 * rng.standard_normal(target.shape), 0, 1)
        made.append(
            Sample(torch.from_numpy(image.astype(np.float32)), torch.from_numpy(target), f"case_{number}")
        )
    return made


def step_on(network: nn.Module, number: int = 0, **memory: torch.Tensor) -> Step:
    made = samples(2)
    windows = Windows(
        torch.stack([sample.image for sample in made]),
        torch.stack([sample.target for sample in made]),
        tuple(Draw(sample.case, 0) for sample in made),
    )
    return Step(
        network=network, windows=windows, criterion=criterion(), seed=5, number=number, memory=dict(memory)
    )


def train_tiny(defence=None, **more):
    network = tiny()
    recipe = Recipe(steps=4, batch_size=2, lr=1e-2)
    run = optimize(network, samples(), (SIDE,) * 3, recipe, criterion(), seed=3, defence=defence, **more)
    return network, run


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_registry_and_catalogue_name_the_same_defences():
    assert DEFENCES.keys() == CATALOG.keys() == SMALL.keys()


@pytest.mark.parametrize("name", DEFENCES)
def test_a_name_is_told_from_a_hash(name):
    assert split_hash(f"unet@{name}") == (f"unet@{name}", "")
    assert split_hash(f"unet@{name}@0123abcd") == (f"unet@{name}", "0123abcd")
    assert split_defence(f"unet@{name}@0123abcd") == ("unet@0123abcd", name)


@pytest.mark.parametrize("name", DEFENCES)
def test_the_spec_says_everything(name):
    built = build_defence(Spec.parse(SMALL[name][0]), load_attack)
    again = build_defence(Spec.parse(built.spec), load_attack)
    assert (again.name, again.spec, again.defence) == (name, built.spec, built.defence)


@pytest.mark.parametrize("name", DEFENCES)
def test_a_defence_trains(name):
    network, run = train_tiny(make(SMALL[name][0]))
    assert not states_equal(network, tiny())
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert run.gradients.outer > 0
    assert (run.gradients.inner > 0) == (name in ("pgd_at", "trades", "vaft", "adaptive"))


@pytest.mark.parametrize(("name", "text"), IDLE)
def test_without_an_attack_it_is_natural_training_bit_for_bit(name, text):
    natural, run = train_tiny()
    defended, other = train_tiny(make(text))
    assert states_equal(natural, defended)
    assert states_equal(run.averaged, other.averaged)
    assert other.gradients == Gradients(outer=run.gradients.outer, inner=0)


@pytest.mark.parametrize("name", [name for name in DEFENCES if name != "free"])
def test_the_attack_inside_leaves_the_network_as_it_was(name):
    """Parameters, buffers, their gradients, modes and every random stream."""
    network = tiny().train()
    network[1].eval()  # somebody froze this one
    network[0].bias.requires_grad_(False)
    network(samples(1)[0].image[None]).sum().backward()
    before = copy.deepcopy(network)
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    modes = [(module.training) for module in network.modules()]
    defence = make(SMALL[name][0])
    step = step_on(network)
    torch.manual_seed(11)
    numpy_state = np.random.get_state()[1].copy()
    expected = torch.get_rng_state()
    if name in ("pgd_at", "noise", "adaptive", "corrupt"):
        defence.change(step, [1])
    else:
        attack = Consistency(steps=2) if name == "trades" else defence.attack.attack
        step.attacked(attack, [0, 1])
    assert torch.equal(torch.get_rng_state(), expected)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert states_equal(network, before)
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in before.parameters()]
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("name", ["pgd_at", "noise", "corrupt", "adaptive"])
def test_changes_depend_on_seed_pass_and_case_alone(name):
    """Neither on the other windows of the batch nor on where in it a window stands."""
    network, defence = tiny(), make(SMALL[name][0])
    both = defence.change(step_on(network), [0, 1])
    alone = defence.change(step_on(network), [1])
    assert torch.equal(both[1], alone[0])
    step = step_on(network)
    later = Step(
        network=network,
        windows=Windows(step.images, step.windows.targets, (Draw("case_0", 1), Draw("case_1", 1))),
        criterion=criterion(),
        seed=5,
        number=0,
    )
    assert not torch.equal(defence.change(later, [1]), alone)


def test_the_share_holds_over_steps():
    defence = make("pgd_at:share=0.3")
    chosen = [len(defence.chosen(step_on(tiny(), number))) for number in range(10)]
    assert sum(chosen) == 6  # of 20 windows
    assert all(n in (0, 1) for n in chosen)


def test_half_of_the_batch_is_attacked_within_the_radius():
    network, defence = tiny(), make("pgd_at:eps=4/255,steps=2")
    step = step_on(network)
    seen = []
    network.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]) if module.training else None
    )
    network.train()
    defence.loss(step)
    moved = (seen[-1] - step.images).abs().flatten(1).max(1).values
    assert moved[0] == 0
    assert 0 < moved[1] <= 4 / 255
    assert seen[-1].shape == step.images.shape


def test_divergence_is_the_mean_over_voxels_of_the_kl():
    clean, other = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64), torch.randn(2, 3, 4, 5, 6).double()
    p = torch.distributions.Categorical(logits=clean.movedim(1, -1))
    q = torch.distributions.Categorical(logits=other.movedim(1, -1))
    expected = torch.distributions.kl_divergence(p, q)
    assert torch.allclose(divergence(clean, other), expected.flatten(1).mean(1))
    counted = torch.rand(2, 1, 4, 5, 6) < 0.5
    masked = torch.stack([one[there[0]].mean() for one, there in zip(expected, counted, strict=True)])
    assert torch.allclose(divergence(clean, other, counted), masked)
    assert divergence(clean, clean).abs().max() == 0


def test_spectral_distance_is_that_of_scipys_dct():
    from scipy.fft import dctn

    clean, other = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    spectra = [dctn(x.double().numpy(), axes=(2, 3, 4), norm="ortho") for x in (clean, other)]
    distance, size = np.abs(spectra[0] - spectra[1]).sum(), np.abs(spectra[0]).sum()
    assert math.isclose(spectral_distance(clean, other).item(), distance / size, rel_tol=1e-5)
    assert math.isclose(spectral_distance(clean, other, normalized=False).item(), distance, rel_tol=1e-5)


def test_trades_is_the_plain_loss_plus_beta_times_the_divergence():
    network = tiny().eval()  # one value, whatever dropout would draw
    step = step_on(network)
    moved = step.attacked(Consistency(eps=8 / 255, steps=3), [0, 1])
    expected = step.loss(step.images) + 6 * divergence(network(step.images), network(moved)).mean()
    assert torch.allclose(make("trades").loss(step_on(network)), expected, rtol=1e-5)


def test_consistency_moves_the_prediction_further_than_noise():
    network = tiny().eval()
    step = step_on(network)
    moved = step.attacked(Consistency(eps=8 / 255, steps=5), [0, 1])
    noisy = step.attacked(make("noise").attack.attack, [0, 1])
    clean = network(step.images)
    assert (divergence(clean, network(moved)) > 1.5 * divergence(clean, network(noisy))).all()
    assert (moved - step.images).abs().max() <= 8 / 255


def test_free_noise_belongs_to_its_windows_and_stays_in_the_ball():
    network, defence = tiny().train(), make("free:eps=6/255,repeats=3")
    memory: dict[str, torch.Tensor] = {}
    noises = []
    for number in range(6):
        step = step_on(network, number)
        step.memory.update(memory)
        network.zero_grad(set_to_none=True)
        defence.loss(step).backward()
        defence.after(step)
        memory = step.memory
        noises.append(memory["noise"])
        assert memory["noise"].abs().max() <= 6 / 255 + 1e-7
        assert memory.keys() == {"noise"}
    assert not torch.equal(noises[0], noises[1])
    # The fourth step starts anew, from the stream of its case and not from the third.
    fresh = step_on(network, 0)
    defence.loss(fresh)
    again = step_on(network, 3, noise=memory["noise"])
    defence.loss(again)
    assert torch.equal(fresh.memory["noise"], again.memory["noise"])


def test_free_leaves_what_lies_beyond_the_volume():
    network, defence = tiny(), make("free")
    step = step_on(network)
    step.images[:, :, 0] = 0.0
    defence.loss(step)
    assert (step.memory["images"][:, :, 0] == 0).all()


def test_adaptive_radii_stay_within_bounds_and_follow_the_case():
    assert next_radius(0.02, True, 0.01, 0.025) == 0.025
    assert next_radius(0.02, False, 0.01, 0.025) == pytest.approx(0.01)
    defence = make("adaptive:eps=12/255,grow=4/255,hold=0,steps=2")
    step = step_on(tiny())
    for _ in range(4):
        defence.change(step, [0, 1])
    assert float(step.memory["radius/case_0"]) == pytest.approx(12 / 255)  # always held
    strict = make("adaptive:eps=12/255,grow=4/255,hold=1,steps=2")
    for _ in range(4):
        strict.change(step, [0])
    assert float(step.memory["radius/case_0"]) == 0  # never held
    assert float(step.memory["radius/case_1"]) == pytest.approx(12 / 255)


def test_any_attack_of_the_registry_goes_inside():
    assert make("pgd_at:attack=vafa,q_max=30,steps=2").attack.spec.startswith("vafa:block_size=32")
    assert make("pgd_at:attack=fgsm,eps=4/255").radius == 4 / 255
    assert is_idle(PGD(steps=0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd", "unknown defence 'pgd'; did you mean pgd_at"),
        ("pgd_at:epz=1", "pgd has no parameter 'epz'"),
        ("trades:loss=ce", "trades has no parameter 'loss'"),
        ("trades:beta=-1", "beta: expected a number of at least 0, got -1"),
        ("pgd_at:share=2", "share: expected a number of at least 0 and at most 1, got 2"),
        ("adaptive:attack=vafa", "expected one with an L-inf radius"),
        ("free:repeats=0", "repeats: expected"),
        ("free:repeats=2.5", "repeats: expected a whole number"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(text, message):
    with pytest.raises(UsageError) as error:
        make(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
