"""Batch normalization in training: what torch's gives in double precision, however the samples are shared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cvloc_ros.training import sync_norm
from cvloc_ros.training.sync_norm import SyncedBatchNorm


def passed(norm, x, gradient):
    """What it gives, the gradients, and what it remembers, in double precision."""
    x = x.detach().requires_grad_()
    output = norm.train()(x)
    output.backward(gradient)
    found = {"output": output, "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    return {name: value.detach().double() for name, value in (found | dict(norm.named_buffers())).items()}


@pytest.fixture
def norm():
    torch.manual_seed(0)
    norm = SyncedBatchNorm(4)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias)
    return norm


def given(dtype):
    """Return what comes in and a gradient: channels last, many rows, one channel that is nearly constant."""
    x, gradient = torch.randn(2, 8, 4, 64, 96, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1.0, 30.0, 1e-3, 2.0])[:, None, None] + torch.tensor([0.0, 5.0, 0.2, -3.0])[:, None, None]
    return (each.to(dtype).contiguous(memory_format=torch.channels_last) for each in (x, gradient))


def check(norm, dtype, tolerance):
    """Compare with torch's own in double precision."""
    x, gradient = given(dtype)
    plain = nn.BatchNorm2d(4).double()
    plain.load_state_dict(norm.state_dict())
    wanted, found = passed(plain, x.double(), gradient.double()), passed(norm, x, gradient)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        # of images each channel for itself: one is a thousand times as wide as another
        apart, size = (
            each.transpose(0, 1).flatten(1).abs().amax(1) if each.dim() == 4 else each.abs().max()
            for each in (found[name] - value, value)
        )
        assert (apart <= tolerance * size).all(), name


def test_it_is_batch_normalization(norm):
    check(norm, torch.float32, 3e-5)
    plain, (x, _) = nn.BatchNorm2d(4), given(torch.float32)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_half_precision(norm):
    """As autocast has it: images in half precision, the norm's own numbers not."""
    check(norm, torch.bfloat16, 1e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.bfloat16, 1e-2)])
def test_of_two_processes_with_the_same_samples(norm, dtype, tolerance, monkeypatch):
    """Each gets what it would get alone."""
    monkeypatch.setattr(sync_norm, "_processes", lambda: 2)
    monkeypatch.setattr(sync_norm, "_of_all", lambda sums: 2 * sums)
    check(norm, dtype, tolerance)
