"""The selective scan and the Mamba block against independent references."""

import math

import pytest
import torch
import torch.nn.functional as F

from robustvox.models.mamba import Mamba, scan, selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D")
CHUNK, COUNT = 3, 2
SEGMENT = CHUNK * COUNT


@pytest.fixture
def tiny_segments(monkeypatch):
    """Chunks of 3 tokens, 2 chunks a segment (batch 1, width 2, state 2): a boundary every few tokens."""
    monkeypatch.setitem(scan.CHUNK, "cpu", CHUNK)
    monkeypatch.setitem(scan.SEGMENT_ELEMENTS, "cpu", SEGMENT * 2 * 2)


def make(batch, length, inner, state, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    values = (
        normal(batch, length, inner),
        F.softplus(normal(batch, length, inner)),
        -torch.exp(normal(inner, state)),
        normal(batch, length, state),
        normal(batch, length, state),
        normal(inner),
    )
    return [value.to(dtype).requires_grad_() for value in values]


def reference(u, delta, A, B, C, D):
    """The recurrence one token at a time, in the inputs' own dtype, differentiated by autograd."""
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(torch.einsum("be,en->ben", delta[:, t], A))
        h = decay * h + torch.einsum("be,bn->ben", delta[:, t] * u[:, t], B[:, t])
        outputs.append(torch.einsum("ben,bn->be", h, C[:, t]) + D * u[:, t])
    return torch.stack(outputs, dim=1)


def gradients(function, inputs, weight):
    return torch.autograd.grad(function(*inputs), inputs, weight)


LENGTHS = (1, 2, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 5)


@pytest.mark.parametrize("length", LENGTHS)
def test_gradcheck(tiny_segments, length):
    inputs = make(1, length, 2, 2)
    assert torch.autograd.gradcheck(selective_scan, inputs, fast_mode=False)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_sequential_recurrence(monkeypatch, length, batch):
    monkeypatch.setitem(scan.CHUNK, "cpu", CHUNK)
    monkeypatch.setitem(scan.SEGMENT_ELEMENTS, "cpu", SEGMENT * batch * 5 * 4)
    inputs = make(batch, length, 5, 4)
    weight = torch.randn(batch, length, 5, dtype=torch.float64)
    torch.testing.assert_close(selective_scan(*inputs), reference(*inputs), rtol=1e-11, atol=1e-12)
    expected = gradients(reference, inputs, weight)
    for name, got, want in zip(NAMES, gradients(selective_scan, inputs, weight), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("length", "inner", "state"), [(700, 64, 16), (33, 7, 1), (1200, 24, 16)])
def test_shipped_settings_in_single_precision(length, inner, state):
    """The shipped chunk and segment sizes, with several segments: float32 stays near the float64 loop."""
    inputs = make(2, length, inner, state)
    single = [x.detach().float().requires_grad_() for x in inputs]
    weight = torch.randn(2, length, inner, dtype=torch.float64)
    y = selective_scan(*single)
    assert y.dtype == torch.float32
    want = reference(*inputs)
    assert (y - want).norm() <= 2e-6 * want.norm()
    got = torch.autograd.grad(y, single, weight.float())
    for name, g, w in zip(NAMES, got, torch.autograd.grad(want, inputs, weight), strict=True):
        assert (g - w).norm() <= 2e-5 * w.norm(), name


def test_chunking_does_not_change_the_result(monkeypatch):
    inputs = make(2, 97, 6, 3)
    weight = torch.randn(2, 97, 6, dtype=torch.float64)
    results = []
    for chunk, count in [(1, 1), (1, 200), (5, 4), (16, 1), (97, 1), (500, 1)]:
        monkeypatch.setitem(scan.CHUNK, "cpu", chunk)
        monkeypatch.setitem(scan.SEGMENT_ELEMENTS, "cpu", chunk * count * 36)
        results.append((selective_scan(*inputs), *gradients(selective_scan, inputs, weight)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("step", [0.0, 1e-12, 1e-3, 5.0, 60.0, 1e4, 1e30])
def test_extreme_steps_stay_finite_and_right(tiny_segments, step):
    u, _, A, B, C, D = make(2, 4 * SEGMENT + 1, 2, 2, torch.float32)
    delta = torch.full_like(u, step).requires_grad_()
    inputs = (u, delta, A, B, C, D)
    y = selective_scan(*inputs)
    grads = torch.autograd.grad(y, inputs, torch.ones_like(y))
    assert all(bool(torch.isfinite(x).all()) for x in (y, *grads))
    wide = [x.detach().double().requires_grad_() for x in inputs]
    want = reference(*wide)
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5 * (1 + step))
    for got, exact in zip(grads, gradients(reference, wide, torch.ones_like(want)), strict=True):
        assert (got.double() - exact).norm() <= 1e-4 * exact.norm() + 1e-6
    if step == 0.0:
        torch.testing.assert_close(y, D * u)


def test_decays_that_underflow_over_a_long_sequence():
    """Prefix products underflow long before the end; a division by them would give NaN here."""
    u, _, _, B, C, D = make(1, 2000, 8, 4, torch.float32)
    delta = torch.full_like(u, 3.0).requires_grad_()
    A = torch.linspace(-16.0, -1e-3, 32).view(8, 4).requires_grad_()
    inputs = (u, delta, A, B, C, D)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    y, want = selective_scan(*inputs), reference(*wide)
    assert (y - want).norm() <= 1e-6 * want.norm()
    got = torch.autograd.grad(y, inputs, torch.ones_like(y))
    for name, g, w in zip(NAMES, got, gradients(reference, wide, torch.ones_like(want)), strict=True):
        assert (g - w).norm() <= 1e-4 * w.norm(), name


@pytest.mark.parametrize("needed", [*((name,) for name in NAMES), ("u", "delta", "B", "C")])
def test_only_the_needed_gradients(tiny_segments, needed):
    everything = make(1, 2 * SEGMENT + 1, 2, 2)
    weight = torch.randn(1, 2 * SEGMENT + 1, 2, dtype=torch.float64)
    full = dict(zip(NAMES, gradients(selective_scan, everything, weight), strict=True))
    inputs = [x.detach().requires_grad_(n in needed) for n, x in zip(NAMES, everything, strict=True)]
    y = selective_scan(*inputs)
    returned = []
    y.grad_fn.register_hook(lambda grads, _: returned.extend(grads))
    y.backward(weight)
    assert [g is not None for g in returned] == [n in needed for n in NAMES]
    for name, x in zip(NAMES, inputs, strict=True):
        if name in needed:
            torch.testing.assert_close(x.grad, full[name])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_computes_in_single_precision_under_autocast(low):
    inputs = make(1, 100, 8, 4, torch.float32)
    plain = selective_scan(*inputs)
    expected = torch.autograd.grad(plain, inputs, torch.ones_like(plain))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan(*inputs)
        got = torch.autograd.grad(y, inputs, torch.ones_like(y))
    assert y.dtype == torch.float32
    assert torch.equal(y, plain)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    rounded = [x.detach().to(low) for x in inputs]
    assert torch.equal(selective_scan(*rounded), selective_scan(*(x.float() for x in rounded)).to(low))


def test_double_precision_survives_autocast_and_mixes():
    inputs = make(1, 20, 4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(*inputs), selective_scan(*inputs))
        assert selective_scan(*inputs).dtype == torch.float64
    mixed = [inputs[0].detach().float(), *inputs[1:]]
    assert selective_scan(*mixed).dtype == torch.float32


def test_second_derivatives_are_refused():
    inputs = make(1, 5, 2, 2)
    y = selective_scan(*inputs)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(y.sum(), inputs[0], create_graph=True)


def test_keeps_far_less_than_the_states():
    """What is saved for the backward pass: the inputs, and one state per chunk."""
    batch, length, inner, state = 1, 4096, 16, 16
    inputs = make(batch, length, inner, state, torch.float32)
    sizes = {}

    def pack(x):
        sizes[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        selective_scan(*inputs)
    held = sum(sizes.values()) - sum(x.numel() for x in inputs)
    assert held == length // scan.CHUNK["cpu"] * batch * inner * state
    assert held <= length * inner * state / 32


def test_is_causal():
    inputs = [x.detach() for x in make(1, 90, 4, 3)]
    before = selective_scan(*inputs)
    for index in (0, 1, 3, 4):
        changed = [x.clone() for x in inputs]
        changed[index][:, 50:] += 0.5
        after = selective_scan(*changed)
        assert torch.equal(before[:, :50], after[:, :50])
        assert not torch.equal(before[:, 50], after[:, 50])


def test_non_contiguous_inputs_and_empty_sequences():
    inputs = make(2, 40, 6, 3)
    views = [x.detach().transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    assert torch.equal(selective_scan(*views), selective_scan(*inputs))
    empty = make(2, 0, 6, 3)
    y = selective_scan(*empty)
    assert y.shape == (2, 0, 6)
    assert [g.shape for g in gradients(selective_scan, empty, y)] == [x.shape for x in empty]


@pytest.mark.parametrize("index", range(1, 6))
def test_mismatched_shapes_are_named(index):
    inputs = [x.detach() for x in make(1, 4, 3, 2)]
    inputs[index] = inputs[index].new_zeros(*(extent + 1 for extent in inputs[index].shape))
    with pytest.raises(ValueError, match=r"expected .* got .*"):
        selective_scan(*inputs)


@pytest.mark.parametrize("width", [32, 40])
def test_block_parameters_are_those_of_the_official_code(width):
    inner, rank = 2 * width, math.ceil(width / 16)
    shapes = {name: tuple(p.shape) for name, p in Mamba(width).named_parameters()}
    assert shapes == {
        "in_proj.weight": (2 * inner, width),
        "conv1d.weight": (inner, 1, 4),
        "conv1d.bias": (inner,),
        "x_proj.weight": (rank + 32, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "A_log": (inner, 16),
        "D": (inner,),
        "out_proj.weight": (width, inner),
    }
    assert set(Mamba(width).state_dict()) == set(shapes)


def test_block_initialization():
    torch.manual_seed(0)
    block = Mamba(64)
    steps = F.softplus(block.dt_proj.bias)
    assert steps.min() >= 1e-3 * 0.999
    assert steps.max() <= 0.1 * 1.001
    # Log-uniform: the median is the geometric mean of the bounds.
    assert 0.005 < steps.median() < 0.02
    assert block.dt_proj.weight.abs().max() <= 4**-0.5
    assert block.dt_proj.weight.abs().max() > 0.9 * 4**-0.5
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 17.0).expand(128, 16))
    assert bool((block.D == 1).all())


def step_by_step(block, tokens):
    """The published block, one token at a time, from its parameters alone."""
    p = dict(block.named_parameters())
    batch, length, _ = tokens.shape
    inner, state = p["A_log"].shape
    rank = p["dt_proj.weight"].shape[1]
    taps = p["conv1d.weight"].shape[-1]
    A = -torch.exp(p["A_log"])
    window = tokens.new_zeros(batch, taps, inner)
    h = tokens.new_zeros(batch, inner, state)
    outputs = []
    for t in range(length):
        projected = tokens[:, t] @ p["in_proj.weight"].T
        x, z = projected[:, :inner], projected[:, inner:]
        window = torch.cat((window[:, 1:], x[:, None]), dim=1)
        u = (window * p["conv1d.weight"][:, 0].T).sum(1) + p["conv1d.bias"]
        u = u * torch.sigmoid(u)
        features = u @ p["x_proj.weight"].T
        delta = F.softplus(features[:, :rank] @ p["dt_proj.weight"].T + p["dt_proj.bias"])
        B, C = features[:, rank : rank + state], features[:, rank + state :]
        h = torch.exp(delta[..., None] * A) * h + (delta * u)[..., None] * B[:, None]
        y = (h * C[:, None]).sum(-1) + p["D"] * u
        outputs.append((y * z * torch.sigmoid(z)) @ p["out_proj.weight"].T)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("options", [{}, {"d_state": 5, "d_conv": 2, "expand": 3, "dt_rank": 3}])
def test_block_equals_the_step_by_step_recurrence(options):
    torch.manual_seed(1)
    block = Mamba(20, **options).double()
    tokens = torch.randn(2, 75, 20, dtype=torch.float64, requires_grad=True)
    got, want = block(tokens), step_by_step(block, tokens)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    wanted = (tokens, *block.parameters())
    weight = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, wanted, weight), torch.autograd.grad(want, wanted, weight), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_block_is_causal_and_refuses_other_widths():
    block = Mamba(8)
    tokens = torch.randn(1, 30, 8)
    changed = tokens.clone()
    changed[:, 20:] += 1
    before, after = block(tokens), block(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])
    with pytest.raises(ValueError, match=r"expected tokens of shape \(B,L,8\)"):
        block(torch.randn(1, 8, 30))
    with pytest.raises(ValueError, match="positive"):
        Mamba(0)


def test_block_under_autocast_stays_close():
    block, tokens = Mamba(16), torch.randn(1, 50, 16)
    plain = block(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(tokens)
    assert (half.float() - plain).norm() < 0.05 * plain.norm()
