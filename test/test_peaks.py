"""Peaks of a vote whose heights and places are known."""

import numpy as np
import pytest
import torch

from cvloc_ros.models.peaks import find_peaks, heard, highest_cell

HEADINGS, SHIFTS = torch.deg2rad(torch.arange(-10.0, 11.0, 2.0)), torch.arange(20.8, -21.0, -1.6)  # rad, m

PEAKS = ((5, 10, 20), (2, 18, 4), (8, 3, 3))  # heading, shift forward, shift left, in the order of their height


def vote():
    logits = 0.1 * torch.rand(1, 11, 27, 27, generator=torch.Generator().manual_seed(0))
    for height, (h, x, y) in zip((9.0, 7.0, 5.0), PEAKS, strict=True):
        logits[0, h - 1 : h + 2, x - 1 : x + 2, y - 1 : y + 2] = height - 1  # its flanks are higher than the next
        logits[0, h, x, y] = height
    return logits


def find(given=None):
    return find_peaks(vote(), HEADINGS, SHIFTS, count=3, given=given)


def pose(peak):
    h, x, y = peak
    return torch.stack([SHIFTS[x], SHIFTS[y], HEADINGS[h]])


def test_they_are_not_beside_one_another():
    poses, heights, cells = find()
    torch.testing.assert_close(poses[0], torch.stack([pose(peak) for peak in PEAKS]))
    torch.testing.assert_close(heights, torch.tensor([[9.0, 7.0, 5.0]]))
    assert not (cells[:, 0] & cells[:, 1]).any() and cells[0, 1, 2, 18, 4]


def test_in_training_the_first_is_given_and_its_neighbours_are_no_rivals():
    # four headings from the second peak, out of sight
    centre = pose((6, 19, 6))[None] + torch.tensor([[0.3, -0.4, 0.004]])
    poses, heights, _ = find(centre)
    torch.testing.assert_close(poses[0, 0], centre[0])
    torch.testing.assert_close(poses[0, 1:], torch.stack([pose(PEAKS[i]) for i in (0, 1)]))
    torch.testing.assert_close(heights, torch.tensor([[0.1, 9.0, 7.0]]), atol=0.1, rtol=0)
    centre = pose((3, 19, 6))[None]  # within the second vote's sight of the second peak
    poses, heights, _ = find(centre)
    torch.testing.assert_close(heights, torch.tensor([[7.0, 9.0, 5.0]]))


def test_the_second_vote_may_overrule_the_first():
    logits = vote()
    after = heard(logits, torch.tensor([[1.0, 6.0, 0.0]]), find().cells)
    assert highest_cell(after).tolist() == [list(PEAKS[1])]
    change = after - logits
    np.testing.assert_allclose([change[(0, *peak)] for peak in PEAKS], [-5, 0, -6], atol=1e-5)
    assert change[0, 0, 0, 0] == pytest.approx(-6)  # nobody has looked there again
