"""In which order the published Mamba networks read the voxels, against references with explicit loops."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustvox.models.mamba import Mamba, TriMamba
from robustvox.models.mamba.em_unet import ScaledLayer
from robustvox.models.mamba.lma_unet import (
    PixelLayer,
    WindowLayer,
    gather_lattices,
    scales,
    scatter_lattices,
)
from robustvox.models.mamba.nnmamba import FlipLayer
from robustvox.models.mamba.segmamba import SegMamba, TriLayer
from robustvox.models.mamba.tri import interleave
from robustvox.models.mamba.volume import MambaLayer, to_tokens, to_volume

SIZE = (2, 3, 4)


def flatten(x: Tensor) -> list[Tensor]:
    """Voxels (C,) of one volume (C,X,Y,Z), last axis fastest."""
    return [x[:, i, j, k] for i, j, k in itertools.product(*map(range, x.shape[1:]))]


def unflatten(tokens: list[Tensor], size: tuple[int, ...]) -> Tensor:
    x = torch.empty(len(tokens[0]), *size, dtype=tokens[0].dtype)
    for token, (i, j, k) in zip(tokens, itertools.product(*map(range, size)), strict=True):
        x[:, i, j, k] = token
    return x


def one_direction(mamba: nn.Module, x: list[Tensor], gate: list[Tensor], suffix: str = "") -> list[Tensor]:
    """Convolution, recurrence and gate of one parameter set, one token and one channel at a time."""
    state = dict(mamba.named_parameters())
    s = f"_{suffix}" if suffix else ""
    kernel, shift = state[f"conv1d{s}.weight"][:, 0], state[f"conv1d{s}.bias"]
    A = -torch.exp(state[f"A_{suffix}_log" if suffix else "A_log"])
    inner, states = A.shape
    rank = state[f"dt_proj{s}.weight"].shape[1]
    h = torch.zeros(inner, states, dtype=A.dtype)
    out = []
    for t in range(len(x)):
        u = shift.clone()
        for tap in range(kernel.shape[1]):
            past = t - (kernel.shape[1] - 1) + tap
            if past >= 0:
                u = u + kernel[:, tap] * x[past]
        u = u * torch.sigmoid(u)
        low, B, C = torch.split(state[f"x_proj{s}.weight"] @ u, [rank, states, states])
        delta = torch.log1p(torch.exp(state[f"dt_proj{s}.weight"] @ low + state[f"dt_proj{s}.bias"]))
        h = torch.exp(delta[:, None] * A) * h + (delta * u)[:, None] * B
        out.append((h @ C + state[f"D{s}"] * u) * gate[t] * torch.sigmoid(gate[t]))
    return out


def enter(mamba: nn.Module, tokens: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    rows = [mamba.in_proj.weight @ token for token in tokens]
    half = len(rows[0]) // 2
    return [row[:half] for row in rows], [row[half:] for row in rows]


def plain(mamba: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """One Mamba layer; without its last projection if it has none."""
    read = one_direction(mamba, *enter(mamba, tokens))
    return [mamba.out_proj(y) for y in read]


def doubled(layer: nn.Module) -> nn.Module:
    """In float64, with norms and directions that differ from their special first values."""
    layer.double().eval()
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            if "A_" not in key and "dt_proj" not in key:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def volume(channels: int, batch: int = 1, size: tuple[int, ...] = SIZE) -> Tensor:
    return torch.randn(batch, channels, *size, dtype=torch.float64)


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_tokens_are_row_major_and_come_back():
    x = volume(3, batch=2)
    tokens = to_tokens(x)
    for b in range(2):
        same(tokens[b], torch.stack(flatten(x[b])))
    assert torch.equal(to_volume(tokens, SIZE), x)


def test_mamba_is_its_recurrence():
    mamba = doubled(Mamba(4, d_state=3))
    tokens = torch.randn(1, 7, 4, dtype=torch.float64)
    same(mamba(tokens)[0], torch.stack(plain(mamba, list(tokens[0]))))


def test_interleaving_by_index_loops():
    tokens = torch.arange(24.0).view(1, 24, 1)
    for slices in (1, 2, 3, 24):
        run = 24 // slices
        read = interleave(tokens, slices)[0, :, 0].tolist()
        for s, j in itertools.product(range(slices), range(run)):
            assert read[j * slices + s] == s * run + j
        assert torch.equal(interleave(interleave(tokens, slices), run), tokens)
    with pytest.raises(ValueError, match="24 tokens and 5 slices"):
        interleave(tokens, 5)


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_tri_directional_mamba_reads_forward_backward_and_across_slices(slices):
    mamba = doubled(TriMamba(4, d_state=3))
    tokens = torch.randn(1, 12, 4, dtype=torch.float64)
    x, gate = enter(mamba, list(tokens[0]))
    length, run = len(x), len(x) // slices
    forward = one_direction(mamba, x, gate)
    backward = one_direction(mamba, x[::-1], gate[::-1], "b")
    order = [s * run + j for j in range(run) for s in range(slices)]
    across = one_direction(mamba, [x[i] for i in order], [gate[i] for i in order], "s")
    expected = []
    for t in range(length):
        total = forward[t] + backward[length - 1 - t] + across[order.index(t)]
        expected.append(mamba.out_proj.weight @ total)
    same(mamba(tokens, slices=slices)[0], torch.stack(expected))


def test_tri_directional_gradient_reaches_every_parameter():
    mamba = doubled(TriMamba(4, d_state=3))
    mamba(torch.randn(2, 6, 4, dtype=torch.float64), slices=2).square().sum().backward()
    assert len(dict(mamba.named_parameters())) == 23
    for key, parameter in mamba.named_parameters():
        assert parameter.grad.abs().max() > 0, key


def test_tri_directional_steps_start_as_published():
    """Special steps for the first direction only; the others keep the defaults of a linear layer."""
    mamba = TriMamba(64)
    steps = F.softplus(mamba.dt_proj.bias.detach())
    assert float(steps.min()) >= 9e-4
    assert float(steps.max()) <= 0.101
    bound = mamba.dt_rank**-0.5
    for suffix in ("b", "s"):
        bias = getattr(mamba, f"dt_proj_{suffix}").bias.detach()
        assert float(bias.abs().max()) <= bound
        assert float(F.softplus(bias).min()) > 0.101


def test_umamba_layer_has_no_residual():
    layer = doubled(MambaLayer(4, d_state=2))
    x = volume(4)
    expected = plain(layer.mamba, [layer.norm(token) for token in flatten(x[0])])
    same(layer(x)[0], unflatten(expected, SIZE))


def test_segmamba_of_the_benchmark_has_no_residual_and_one_direction():
    network = SegMamba(1, 3, dims=(4,) * 4, depths=(1,) * 4, hidden_size=4, variant="bmvc", d_state=2)
    layer = doubled(network.vit.stages[0][0])
    x = volume(4)
    same(layer(x)[0], unflatten(plain(layer.mamba, [layer.norm(t) for t in flatten(x[0])]), SIZE))


def test_segmamba_slices_are_the_planes_of_the_first_axis():
    """The third direction visits the same place of consecutive planes one after the other."""
    layer = doubled(TriLayer(4, None, d_state=2))
    x = volume(4)
    tokens = layer.norm(to_tokens(x))
    same(layer(x), x + to_volume(layer.mamba(tokens, slices=SIZE[0]), SIZE))
    index = torch.arange(24.0).view(1, 1, *SIZE)
    places = list(itertools.product(range(SIZE[1]), range(SIZE[2]), range(SIZE[0])))
    read = interleave(to_tokens(index), SIZE[0])[0, :, 0]
    assert read.tolist() == [float(index[0, 0, plane, j, k]) for j, k, plane in places]
    constant = TriLayer(4, 3, d_state=2).double()
    constant.load_state_dict(layer.state_dict())
    same(constant(x), x + to_volume(layer.mamba(tokens, slices=3), SIZE))


def test_nnmamba_averages_four_readings():
    layer = doubled(FlipLayer(4, d_state=2))
    x = volume(4)
    entered = torch.relu(layer.norm(layer.nin(x)))
    tokens = flatten(entered[0])
    total = [torch.zeros_like(token) for token in tokens]
    for channels_reversed, sequence_reversed in itertools.product((False, True), repeat=2):
        read = [token.flip(0) if channels_reversed else token for token in tokens]
        read = plain(layer.mamba, read[::-1] if sequence_reversed else read)
        read = read[::-1] if sequence_reversed else read
        for t, token in enumerate(read):
            total[t] = total[t] + (token.flip(0) if channels_reversed else token)
    mean = unflatten([token / 4 for token in total], SIZE)
    same(layer.readings(entered)[0], mean)
    same(layer(x), torch.relu(layer.norm2(layer.nin2(mean[None] + entered))))


def test_em_unet_layer_normalizes_twice_with_one_norm():
    layer = doubled(ScaledLayer(4, 6, d_state=2))
    x = volume(4)
    tokens = flatten(x[0])
    read = plain(layer.mamba, [layer.norm(token) for token in tokens])
    expected = [
        layer.proj(layer.norm(m + layer.skip_scale * token)) for m, token in zip(read, tokens, strict=True)
    ]
    same(layer(x)[0], unflatten(expected, SIZE))


def bidirectional(layer: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    normed = [layer.norm(token) for token in tokens]
    forward = one_direction(layer.mamba_forw, *enter(layer.mamba_forw, normed))
    backward = one_direction(layer.mamba_backw, *enter(layer.mamba_backw, normed[::-1]))[::-1]
    return [layer.out_proj(f + b) for f, b in zip(forward, backward, strict=True)]


def test_lma_scales_are_the_published_ones():
    assert scales(6) == (4, 4, 2, 2, 1, 1)


def test_lma_pixel_level_reads_the_whole_volume_where_windows_do_not_divide():
    layer = doubled(PixelLayer(4, (5, 7, 6), d_state=2))
    x = volume(4)
    same(layer(x)[0], x[0] + unflatten(bidirectional(layer, flatten(x[0])), SIZE))


def test_lma_pixel_level_reads_lattices_where_windows_divide():
    """A sequence is the voxels at one position inside all the windows."""
    size, window = (2, 6, 4), (1, 3, 2)
    layer = doubled(PixelLayer(4, window, d_state=2))
    x = volume(4, batch=2, size=size)
    got = layer(x)
    for b in range(2):
        expected = x[b].clone()
        for p, q, r in itertools.product(*map(range, window)):
            lattice = x[b][:, p :: window[0], q :: window[1], r :: window[2]]
            read = bidirectional(layer, flatten(lattice))
            expected[:, p :: window[0], q :: window[1], r :: window[2]] += unflatten(
                read, tuple(lattice.shape[1:])
            )
        same(got[b], expected)
    assert torch.equal(scatter_lattices(gather_lattices(x, window), window), x)


def test_lma_window_level_reads_means_and_repeats_them():
    size = (2, 4, 6)
    layer = doubled(WindowLayer(4, 2, d_state=2))
    x = volume(4, size=size)
    cells = tuple(side // 2 for side in size)
    means = torch.empty(4, *cells, dtype=torch.float64)
    for i, j, k in itertools.product(*map(range, cells)):
        means[:, i, j, k] = x[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2].mean((1, 2, 3))
    read = unflatten(bidirectional(layer, flatten(means)), cells)
    expected = x[0].clone()
    for i, j, k in itertools.product(*map(range, size)):
        expected[:, i, j, k] += read[:, i // 2, j // 2, k // 2]
    same(layer(x)[0], expected)


def test_lma_window_level_reads_voxels_where_windows_do_not_divide():
    layer = doubled(WindowLayer(4, 2, d_state=2))
    x = volume(4)
    same(layer(x)[0], x[0] + unflatten(bidirectional(layer, flatten(x[0])), SIZE))
