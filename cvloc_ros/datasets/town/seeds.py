"""Seeds of towns by purpose: training counts up from zero and never reaches the others."""

VALIDATION_TOWNS = 900_000
CALIBRATION_TOWNS = 950_000
TEST_TOWNS = 1_000_000
DEMO_TOWN = 2_000_000

SETS = {"train": "unseen towns", "heldout": "held-out style"}
"""Styles, and what a set of towns of them is called that no training has seen."""
