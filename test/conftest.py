"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets; a test that uses it is skipped where they are absent."""
    root = Path(os.environ.get("CVLOC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}: set CVLOC_SHARED_DATA")
    return root
