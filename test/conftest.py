"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest

# In the background of a shell Ctrl-C is ignored, and by every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets; a test that uses it is skipped where they are absent."""
    root = Path(os.environ.get("CVLOC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}: set CVLOC_SHARED_DATA")
    return root


@pytest.fixture(scope="session")
def vienna(shared_data) -> str:
    """Real imagery: an orthophoto of a piece of Vienna, 0.3 m a pixel."""
    path = shared_data / "aerial" / "44_2_op_2023_30cm.tif"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return str(path)


@pytest.fixture
def imagery_cache(tmp_path, monkeypatch):
    """Imagery has a cache of its own, mosaics of a few tiles, and all the time that a busy machine takes."""
    from cvloc_ros.imagery import gdal_settings, http_tiles, satellite_map, tile_layer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CVLOC_OFFLINE", raising=False)
    for module, name in ((tile_layer, "_PATIENCE"), (http_tiles, "_SILENCE"), (http_tiles, "_DEADLINE")):
        monkeypatch.setattr(module, name, 100.0)
    monkeypatch.setattr(gdal_settings, "_HTTP_TIMEOUT", 100)
    monkeypatch.setattr(satellite_map, "_MOSAIC_CELLS", 100)
    monkeypatch.setattr(satellite_map, "_PREFETCH_CELLS", 8)
    return tmp_path / "cache"


@pytest.fixture
def server():
    """Return a tile server on this machine."""
    from imagery_world import VIENNA
    from tile_server import TileServer

    server = TileServer(VIENNA)
    yield server
    server.stop()
