"""How GDAL is to behave: bounded time on a network, and no keys in what it says."""

from __future__ import annotations

import logging
from typing import Any

from cvloc_ros.imagery.uri import LayerUri, cache_folder, redacted

_HTTP_TIMEOUT = 10  # seconds for a request


class _WithoutKeys(logging.Filter):
    """Takes keys out of what rasterio logs: GDAL's messages hold addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


for _name in ("rasterio", "rasterio.env", "rasterio._env", "rasterio._err", "rasterio._base", "rasterio._io"):
    logging.getLogger(_name).addFilter(_WithoutKeys())


def gdal_options(uri: LayerUri) -> dict[str, Any]:
    """Return settings under which GDAL spends bounded time on a network, and says nothing that is secret."""
    options: dict[str, Any] = {
        "GDAL_HTTP_TIMEOUT": _HTTP_TIMEOUT,
        "GDAL_HTTP_CONNECTTIMEOUT": 5,
        "GDAL_HTTP_MAX_RETRY": 1,
        "GDAL_HTTP_RETRY_DELAY": 1,
        "GDAL_HTTP_USERAGENT": uri.agent,
        "GDAL_DEFAULT_WMS_CACHE_PATH": str(cache_folder() / "gdal"),
        "CPL_VSIL_CURL_NON_CACHED": "/vsi",  # or a server that was down once would be so for ever
        "CPL_CURL_VERBOSE": False,  # it prints addresses, keys and all
    }
    if uri.is_remote:
        options["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"  # do not ask a web server for its folder
    if uri.offline:
        options["GDAL_HTTP_PROXY"] = "127.0.0.1:9"  # nobody listens: also a local VRT of remote files stays offline
    return options
