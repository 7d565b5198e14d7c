"""What an attack may ask of a task."""

import pytest
import torch
from torch import Tensor

from robustvox.attacks import PGD, Attack, Task, tiny_case
from robustvox.attacks.published import LastIterate


def make_task(**more) -> Task:
    model, images, labels = tiny_case(num_classes=3)
    images, labels = torch.cat([images, images.flip(2)]), torch.cat([labels, labels.flip(2)])
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    return Task(model, images, labels, mask, [3, 8], targets=(labels + 1) % 3, **more)


@pytest.mark.parametrize("index", [0, 1])
def test_a_sample_is_what_it_is_alone(index):
    shown, task = [], make_task(notes=["before"])
    alone = task.sample(index, on_step=shown.append, min_classes=3)
    assert (alone.seeds, alone.min_classes, alone.notes) == ([[3], [8]][index], 3, ["before"])
    for name in ("images", "labels", "mask", "targets"):
        assert torch.equal(getattr(alone, name), getattr(task, name)[index : index + 1]), name
    attack = PGD(steps=2)
    together = attack.perturb(make_task())[index : index + 1]
    assert torch.allclose(attack.perturb(alone), together, atol=1e-6)
    assert len(shown) == 3


def test_a_sample_without_mask_and_targets():
    model, images, labels = tiny_case()
    alone = Task(model, images, labels, None, [0]).sample(0)
    assert alone.mask is None
    assert alone.targets is None


def test_a_task_of_another_kind_is_made_of_what_was_given():
    task = make_task(min_classes=3)
    assert task.given()["seeds"] == [3, 8]
    assert {"model", "images", "labels", "mask", "targets", "notes", "on_step", "min_classes"} <= {
        *task.given()
    }
    assert not any(name.startswith("_") for name in task.given())


class Says(Attack):
    """Changes nothing, and says how many samples it saw."""

    def perturb(self, task: Task) -> Tensor:
        task.notes.extend(range(len(task.images)))
        return task.images


def test_notes_reach_the_caller_also_through_another_attack():
    case, found = tiny_case(), []
    Says()(*case, notes=found)
    LastIterate(attack=Says())(*case, notes=found)
    assert found == [0, 0]
    assert torch.equal(Says()(*case), case[1])


def test_an_attack_that_leaves_its_ball_is_refused_when_another_runs_it():
    class Far(PGD):
        def perturb(self, task: Task) -> Tensor:
            return task.images + 0.5

    task = make_task()
    with pytest.raises(RuntimeError, match="leaves it by"):
        Far(eps=0.1).audited(task, task.images)
