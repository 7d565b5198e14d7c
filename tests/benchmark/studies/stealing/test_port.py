"""The port gives answers and nothing else, so many and no more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvox.benchmark.studies.stealing.port import BudgetSpentError, QueryPort


class Victim(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 3, 3, padding=1)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.layer(x)


@pytest.fixture
def victim():
    return Victim().eval()


def volumes(count=1, seed=0):
    return torch.rand(count, 1, 5, 6, 7, generator=torch.Generator().manual_seed(seed))


def test_the_budget_is_exact_and_the_model_never_sees_the_query_beyond_it(victim):
    port = QueryPort(victim, budget=5)
    port(volumes(2))
    port(volumes(2))  # the same again counts again
    assert (port.answered, port.left) == (4, 1)
    with pytest.raises(BudgetSpentError, match="at most 1 more volumes .4 of 5 answered., got 2"):
        port(volumes(2))
    assert (port.answered, sum(victim.batches)) == (4, 4)
    port(volumes(1))
    with pytest.raises(BudgetSpentError):
        port(volumes(1))
    assert (port.answered, port.left, sum(victim.batches)) == (5, 0, 5)


@pytest.mark.parametrize("arguments", [{}, {"output": "probabilities"}, {"output": "probabilities", "decimals": 1},
                                       {"noise": 1.0}])  # fmt: skip
def test_no_gradient_comes_out(victim, arguments):
    port = QueryPort(victim, budget=9, **arguments)
    asked = volumes(1).requires_grad_()
    answer = port(asked)
    assert not answer.requires_grad
    assert answer.grad_fn is None
    assert not answer.is_inference()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(answer.float().sum(), asked)
    # An ordinary tensor all the same: it may train somebody else's network.
    other = nn.Conv3d(1, 3, 1)
    (other(volumes(1)) * answer.float()).sum().backward()
    assert all(parameter.grad is None for parameter in victim.parameters())


def test_parameters_and_mode_are_untouched(victim):
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    QueryPort(victim, budget=3)(volumes(3))
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert not victim.training
    with pytest.raises(ValueError, match="in eval mode"):
        QueryPort(victim.train(), budget=1)


def test_the_model_is_not_an_attribute(victim):
    port = QueryPort(victim, budget=3)
    visible = [name for name in dir(port) if not name.startswith("_")]
    assert set(visible) == {"answered", "budget", "decimals", "left", "noise", "output", "seed"}
    with pytest.raises(AttributeError):
        port.model  # noqa: B018
    with pytest.raises(AttributeError):
        port.left = 10


def test_answers_are_those_of_the_model(victim):
    x = volumes(2)
    with torch.no_grad():
        logits = victim(x)
    assert torch.equal(QueryPort(victim, budget=2)(x), logits.argmax(1, keepdim=True))
    soft = QueryPort(victim, output="probabilities", budget=2)(x)
    torch.testing.assert_close(soft, logits.softmax(1))
    rounded = QueryPort(victim, output="probabilities", decimals=1, budget=2)(x)
    torch.testing.assert_close(rounded * 10, (rounded * 10).round())
    assert (rounded - soft).abs().max() <= 0.05 + 1e-6


def test_noise_is_a_function_of_the_volume_so_that_nothing_averages_out(victim):
    def noisy(seed):
        return QueryPort(victim, output="probabilities", budget=9, noise=2.0, seed=seed)

    port, x = noisy(0), volumes(2)
    first, again, apart = port(x), port(x), torch.cat([port(x[:1]), port(x[1:])])
    assert torch.equal(first, again)
    torch.testing.assert_close(first, apart)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, noisy(1)(x))
    clean = QueryPort(victim, output="probabilities", budget=9)(x)
    added = first.log() - clean.log()
    spread = (
        added - added.mean(1, keepdim=True)
    ).std()  # what a shift of all logits leaves of 2.0 in 3 classes
    assert abs(spread - 2.0 * (2 / 3) ** 0.5) < 0.2


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.full((1, 1, 3, 3, 3), 1.1), r"in \[0, 1\]"), (torch.full((1, 1, 3, 3, 3), float("nan")), "finite"),
     (torch.rand(3, 3, 3), "volumes"), (torch.rand(0, 1, 3, 3, 3), "volumes")],
)  # fmt: skip
def test_queries_that_cannot_be_cost_nothing(victim, images, message):
    port = QueryPort(victim, budget=3)
    with pytest.raises(ValueError, match=message):
        port(images)
    assert port.answered == 0


@pytest.mark.parametrize("bad", [{"output": "logits"}, {"budget": -1}, {"budget": True}, {"decimals": 2}, {"noise": -1.0},
                                 {"output": "probabilities", "decimals": 0}, {"noise": float("inf")}])  # fmt: skip
def test_bad_arguments_are_refused(victim, bad):
    with pytest.raises(ValueError):
        QueryPort(victim, **{"budget": 1, **bad})
