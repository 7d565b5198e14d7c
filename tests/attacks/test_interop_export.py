"""Our attacks as torchattacks' own: their idioms and utilities, or a clear refusal."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustvox.attacks import ATTACKS, FGSM, GN, PGD
from robustvox.attacks.interop import TorchAttack, as_torchattacks

torchattacks = pytest.importorskip("torchattacks")


def seeded(call):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return call()


def expected(attack, model, images, labels, **more):
    """The same attack called our way, with the seed that the bridge draws from the global state."""
    seed = seeded(lambda: int(torch.randint(2**63 - 1, ())))
    return attack(model, images, labels, generator=torch.Generator().manual_seed(seed), **more)


@pytest.mark.parametrize("spatial", [(6, 7, 5), (9, 4)])
@pytest.mark.parametrize("key", sorted(ATTACKS))
def test_is_an_attack_of_theirs_with_our_result(key, spatial, make_case, quick):
    model, images, labels = make_case(spatial)
    attack = quick(key)
    atk = as_torchattacks(attack, model)
    assert isinstance(atk, torchattacks.attack.Attack)
    result = seeded(lambda: atk(images, labels[:, 0]))
    assert torch.equal(result, expected(attack, model, images, labels))
    assert torch.equal(result, seeded(lambda: atk(images, labels)))


def test_draws_from_the_global_state_like_theirs(make_case):
    model, images, labels = make_case()
    atk = as_torchattacks(PGD(steps=1), model)
    first = seeded(lambda: [atk(images, labels), atk(images, labels)])
    again = seeded(lambda: [atk(images, labels), atk(images, labels)])
    assert not torch.equal(*first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_hyper_parameters_can_be_read_and_changed(make_case):
    model, images, labels = make_case()
    atk = as_torchattacks(PGD(eps=8 / 255, steps=4), model)
    assert "eps=0.0313" in str(atk)
    assert str(atk).startswith("PGD(")
    atk.eps = 2 / 255
    result = seeded(lambda: atk(images, labels))
    assert torch.equal(result, expected(PGD(eps=2 / 255, alpha=atk.alpha, steps=4), model, images, labels))
    atk.eps = 8
    with pytest.raises(ValueError, match="eps: .* 8/255"):
        atk(images, labels)


def test_mask_and_plain_callable(make_case, capsys):
    model, images, labels = make_case()
    mask = torch.rand(labels.shape) > 0.5
    attack = PGD(steps=2)
    atk = as_torchattacks(attack, lambda volumes: model(volumes))
    wanted = expected(attack, model, images, labels, mask=mask)
    model.eval()
    assert torch.equal(seeded(lambda: atk(images, labels[:, 0], mask[:, 0])), wanted)
    assert torch.equal(seeded(lambda: atk(images, labels, mask=mask)), wanted)
    assert capsys.readouterr().out == ""


def test_their_normalization_works_for_volumes(make_case):
    model, images, labels = make_case(channels=2, dtype=torch.float64)
    mean, std = torch.tensor([0.2, 0.5]), torch.tensor([0.5, 2.0])
    view = (1, 2, 1, 1, 1)

    class Scaled(nn.Module):
        """What they call a model that normalizes itself."""

        def forward(self, volumes):
            return model((volumes - mean.view(view)) / std.view(view))

    attack = PGD(steps=3)
    atk = as_torchattacks(attack, model)
    atk.set_normalization_used(mean=mean.tolist(), std=std.tolist())
    normalized = (images - mean.view(view)) / std.view(view)
    result = seeded(lambda: atk(normalized, labels)) * std.view(view) + mean.view(view)
    model.eval()
    wanted = expected(attack, Scaled(), images, labels)
    # The round trip moves the images by rounding: signs near zero may flip, in a few voxels at most.
    assert ((result - wanted).abs() > 1e-6).float().mean() < 0.01
    assert (result - images).abs().max() > 0.02
    with pytest.raises(ValueError, match="images: expected values in"):
        atk(normalized + 7, labels)
    assert torch.equal(seeded(lambda: atk(normalized, labels)) * std.view(view) + mean.view(view), result)


def test_targets_by_function_and_by_label(make_case):
    model, images, labels = make_case()
    attack = PGD(steps=4, loss="ce")
    targets = (labels + 1) % 3
    atk = as_torchattacks(attack, model)
    atk.set_mode_targeted_by_function(lambda inputs, given: (given + 1) % 3, quiet=True)
    by_function = seeded(lambda: atk(images, labels[:, 0]))
    assert torch.equal(by_function, expected(attack, model, images, labels, targets=targets))
    atk.set_mode_targeted_by_label(quiet=True)
    by_label = seeded(lambda: atk(images, targets[:, 0]))
    for result in (by_function, by_label):
        assert F.cross_entropy(model(result), targets[:, 0]) < F.cross_entropy(model(images), targets[:, 0])
    with pytest.raises(ValueError, match="targets: expected a segmentation other than the labels"):
        atk(images, model.eval()(images).argmax(1))
    atk.set_mode_default()
    assert torch.equal(seeded(lambda: atk(images, labels)), expected(attack, model, images, labels))


def test_modes_that_count_one_label_per_image_are_refused(make_case):
    model, images, _ = make_case()
    atk = as_torchattacks(PGD(), model)
    for call in (atk.set_mode_targeted_random, atk.set_mode_targeted_least_likely):
        with pytest.raises(ValueError, match="set_mode_targeted_by_function"):
            call(quiet=True)
    with pytest.raises(ValueError, match="eval mode only"):
        atk.set_model_training_mode(model_training=True)
    atk.set_model_training_mode()
    with pytest.raises(ValueError, match="Targeted mode is not supported"):
        as_torchattacks(GN(), model).set_mode_targeted_by_label()
    with pytest.raises(ValueError, match="labels: expected a tensor, got None"):
        atk(images)


def test_save_and_load_stay_in_the_ball(make_case, tmp_path, capsys):
    model, images, labels = make_case(batch=3)
    model.train()
    model.body[0].eval()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels[:, 0]), batch_size=2)
    atk = as_torchattacks(FGSM(eps=8 / 255), model)
    path = tmp_path / "adversarial.pt"
    atk.save(loader, save_path=path, save_clean_inputs=True)
    assert model.training
    assert not model.body[0].training
    assert capsys.readouterr().out == ""
    (saved,) = list(atk.load(path, batch_size=3, load_clean_inputs=True))
    assert torch.equal(saved[0], FGSM(eps=8 / 255)(model, images, labels))
    assert torch.equal(saved[1], labels[:, 0])
    assert (saved[0] - saved[2]).abs().max() <= 8 / 255
    for option in ("verbose", "return_verbose", "save_predictions"):
        with pytest.raises(ValueError, match="one label per image"):
            atk.save(loader, path, **{option: True})
    with pytest.raises(ValueError, match="save_type: expected one of 'float'"):
        atk.save(loader, path, save_type="int")


def test_multi_attack_is_refused_before_it_copies_a_volume_per_voxel(make_case):
    model, _, _ = make_case()
    members = [as_torchattacks(PGD(), model), as_torchattacks(FGSM(), model)]
    with pytest.raises(ValueError, match="MultiAttack, LGV.* use ensemble"):
        torchattacks.MultiAttack(members)


def test_leaves_the_model_as_it_was(make_case):
    model, images, labels = make_case()
    model.train()
    model.body[0].eval()
    model.body[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    atk = as_torchattacks(PGD(steps=1), model)
    atk(images, labels)
    with pytest.raises(ValueError, match="labels"):
        atk(images, labels[:, :, :2])
    assert modes == [module.training for module in model.modules()]
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())


def test_copies_and_frees_the_model(make_case):
    model, images, labels = make_case()
    atk = as_torchattacks(PGD(steps=2), model)
    twin = copy.deepcopy(atk)
    assert twin.model is not model
    torch.manual_seed(3)
    first = atk(images, labels)
    torch.manual_seed(3)
    assert torch.equal(twin(images, labels), first)
    gone = weakref.ref(model)
    del atk, model
    gc.collect()
    assert gone() is None


def test_there_and_back_again(make_case):
    model, images, labels = make_case(batch=1)
    attack = TorchAttack(name="PGD", parameters={"steps": 3})
    atk = as_torchattacks(attack, model)
    assert torch.equal(seeded(lambda: atk(images, labels)), expected(attack, model, images, labels))


def test_what_is_no_attack_or_no_model_is_refused(make_case):
    model, _, _ = make_case()
    with pytest.raises(TypeError, match="attack: expected an Attack, got Net"):
        as_torchattacks(model, PGD())
    with pytest.raises(TypeError, match="attack: expected an Attack, got ABCMeta"):
        as_torchattacks(PGD, model)
    with pytest.raises(TypeError, match="model: expected a callable, got str"):
        as_torchattacks(PGD(), "unet")
