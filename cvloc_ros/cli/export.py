"""`cvloc export`: the network for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TOLERANCE = 1e-3  # metres and radians


def export(
    out: Annotated[Path | None, typer.Option(help="ONNX file to write.", show_default="METHOD.onnx")] = None,
    method: Annotated[str, typer.Option(help="Matching method: vote_flow or dense_flow.")] = "vote_flow",
    weights: Annotated[Path | None, typer.Option(help="Its safetensors file; the shipped weights if omitted.")] = None,
) -> None:
    r"""Write a method's network as an ONNX file of fixed shapes, and check it with ONNX Runtime against PyTorch.

    The file matches one image with one satellite patch over the whole search box; doc/speed.md says what goes in and
    what comes out. Takes half a minute. Needs onnx, onnxscript and onnxruntime: pip install 'cvloc_ros\[export]'.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"expected the packages of cvloc_ros[export], got {error}: pip install 'cvloc_ros[export]'"
        ) from None
    from rich.console import Console

    from cvloc_ros.models.onnx_export import check_onnx, export_onnx
    from cvloc_ros.models.weights import load_network, weights_path

    console, out = Console(), out or Path(f"{method}.onnx")
    network = load_network(weights_path(method, str(weights) if weights else None))
    with console.status("exporting"):
        export_onnx(network, out)
    with console.status("checking"):
        apart = check_onnx(network, out)["pose"]
    if not apart <= TOLERANCE:
        raise ValueError(
            f"expected of ONNX Runtime PyTorch's pose to {TOLERANCE} m and rad, got {apart:.1e}: do not use {out}"
        )
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; its pose is PyTorch's to {apart:.1e} m and rad")
