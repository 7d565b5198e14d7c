"""What tries the Triton window attention before a network uses it: what is right is used, what is not is not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

trial = pytest.importorskip("robustvox.models.swin_attention_trial", reason="Triton is not installed")
plain = trial.plain_window_attention
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(trial, "_RIGHT", {})


def is_right(dtype=torch.float32, tokens=40, masked=True, width=16):
    device = torch.device(DEVICE, 0 if DEVICE == "cuda" else None)
    return trial.is_right(device, dtype, tokens, width, 3, masked)


def put(monkeypatch, kernel):
    monkeypatch.setattr(trial.kernels, "triton_window_attention", kernel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_found_right_and_says_nothing(dtype, masked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_right(dtype, masked=masked)
        assert is_right(dtype, masked=masked, width=12)


def _coarse(qkv, bias, mask, scale):
    """As TF32 would round."""
    rounded = (qkv.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return plain(qkv + (rounded - qkv).detach(), bias, mask, scale)


def _void(qkv, bias, mask, scale):
    return plain(qkv, bias, mask, scale) * float("nan")


def _unsteady(qkv, bias, mask, scale):
    return plain(qkv, bias, mask, scale) * (1 + 1e-6 * torch.rand((), device=qkv.device))


def _broken(qkv, bias, mask, scale):
    raise OSError("no compiler\n here")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (_coarse, "of the norm from float64"),
        (_void, "not finite"),
        (_unsteady, "does not repeat"),
        (_broken, "OSError: no compiler here"),
    ],
)
def test_what_is_not_right_is_not_used_and_it_is_said_once(monkeypatch, wrong, why):
    put(monkeypatch, wrong)
    with pytest.warns(UserWarning, match=why):
        assert not is_right()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_right()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lost", ["key", "gradient"])
def test_a_lost_key_and_a_lost_row_are_seen_in_every_type(monkeypatch, dtype, lost):
    def kernel(qkv, bias, mask, scale):
        if lost == "key":
            bias = bias.clone()
            bias[:, :, -1] = -1e4
        elif qkv.requires_grad:
            qkv = torch.cat([qkv[:, :-1], qkv[:, -1:].detach()], 1)
        return plain(qkv.float(), bias, mask, scale).to(qkv.dtype)

    put(monkeypatch, kernel)
    with pytest.warns(UserWarning, match="of the norm from float64"):
        assert not is_right(dtype, tokens=343)


def test_a_warning_that_is_an_error_is_one_once(monkeypatch):
    put(monkeypatch, _broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no compiler"):
            is_right()
        assert not is_right()


@pytest.mark.parametrize(
    "shortage",
    [
        torch.cuda.OutOfMemoryError("full"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"),
    ],
)
def test_lack_of_memory_is_no_verdict(monkeypatch, shortage):
    def full(*args):
        raise shortage

    with monkeypatch.context() as patched:
        put(patched, full)
        with pytest.raises(type(shortage)):
            is_right()
    assert is_right()


def test_it_may_be_asked_first_inside_a_block_that_is_computed_twice():
    """MONAI's ``use_checkpoint``: its hooks would count the trial's tensors as the block's."""
    x = torch.ones(2, requires_grad=True)

    def block(x):
        return x * 3 if is_right() else x

    (gradient,) = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).sum(), x)
    assert gradient.tolist() == [3, 3]
    assert list(trial._RIGHT.values()) == [True]


@pytest.mark.parametrize("surroundings", [torch.inference_mode, torch.no_grad])
def test_it_may_be_asked_first_where_nothing_has_a_gradient(surroundings):
    with surroundings():
        assert is_right()


def test_it_takes_no_part_in_what_a_graph_keeps_and_draws_no_number():
    kept = []
    state = torch.get_rng_state()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        assert is_right()
    assert not kept
    assert torch.equal(torch.get_rng_state(), state)


def test_a_default_device_of_the_process_is_not_asked():
    with torch.device("meta"):
        assert is_right()


def test_wide_heads_are_monais():
    assert not is_right(width=17)
    assert not trial._RIGHT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_right_on_this_card(dtype, masked):
    assert is_right(dtype, 343, masked)
