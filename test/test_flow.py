"""The flow's local correlation, whose gradients are written by hand."""

import pytest
import torch

from cvloc_ros.models.flow import LocalCorrelation


def samples_and_cells(window, rows=4, cols=3, channels=2):
    """Features and descriptors as `LocalCorrelation` takes them, of random numbers."""
    generator = torch.Generator().manual_seed(0)
    sides = (2 * rows + window - 2, 2 * cols + window - 2)
    shapes = ((2, channels, *sides), (2, channels, rows, cols))
    return [torch.randn(s, dtype=torch.double, generator=generator, requires_grad=True) for s in shapes]


@pytest.mark.parametrize("window", [1, 3, 5])
def test_every_cell_meets_the_samples_around_it(window):
    features, descriptors = samples_and_cells(window)
    found = LocalCorrelation.apply(features, descriptors, window)
    around = torch.nn.functional.unfold(features, window, stride=2).reshape(2, 2, window**2, 4, 3)
    torch.testing.assert_close(found, (around * descriptors[:, :, None]).sum(1))


@pytest.mark.parametrize("window", [1, 3, 5])
def test_its_gradients(window):
    features, descriptors = samples_and_cells(window)
    assert torch.autograd.gradcheck(lambda *inputs: LocalCorrelation.apply(*inputs, window), (features, descriptors))
