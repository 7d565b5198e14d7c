"""What a crossing becomes."""

from __future__ import annotations

import pytest

from robustvox.benchmark.plan.build import build_plan
from robustvox.benchmark.specs.crossing import Computing, Crossing
from robustvox.benchmark.specs.spec import UsageError


@pytest.mark.parametrize(
    ("targets", "transfer", "scored"),
    [((), False, 1), (("unet", "unet"), False, 1), (("segresnet",), True, 2)],
)
def test_what_is_named_twice_is_crossed_once(targets, transfer, scored):
    crossing = Crossing(
        models=("unet", "unet"),
        targets=targets,
        transfer=transfer,
        attacks=("fgsm", "pgd", "fgsm:eps=8/255"),
        cases="1",
    )
    plan = build_plan(crossing, Computing())
    assert [model.name for model in plan.surrogates] == ["unet"]
    assert [len(job.targets) for job in plan.jobs() if job.surrogate] == [scored, scored]
    assert len(plan.attacks) == 2


def test_a_model_named_twice_is_no_pair_to_transfer_between():
    crossing = Crossing(models=("unet", "unet"), transfer=True, attacks=("fgsm",), cases="1")
    with pytest.raises(UsageError, match="at least two --model with --transfer, got unet alone"):
        build_plan(crossing, Computing())
