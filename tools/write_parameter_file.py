"""Write config/localizer.yaml from the dataclasses that define the parameters; a test compares the two.

python tools/write_parameter_file.py
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from cvloc_ros.ros.config import NodeConfig

PATH = Path(__file__).resolve().parents[1] / "config" / "localizer.yaml"
WIDTH = 118
HEAD = """\
# Parameters of the node `cvloc`, each with its default; `ros2 param describe /cvloc <name>` says the same.
# Launch arguments win over this file. What is marked * may be changed while the node runs; the rest takes effect when
# it is configured.
#
# Made by tools/write_parameter_file.py.
/**/cvloc:
  ros__parameters:
"""


def parameter_file() -> str:
    """Return the content of the file."""
    return HEAD + "\n".join(_lines(NodeConfig, indent="    ")) + "\n"


def _lines(config: type, *, indent: str) -> Iterator[str]:
    for setting in fields(config):
        if is_dataclass(setting.default):
            summary = (type(setting.default).__doc__ or "").splitlines()[0].partition(";")[0]
            yield ""
            yield f"{indent}# {summary}"
            yield f"{indent}{setting.name}:"
            yield from _lines(type(setting.default), indent=indent + "  ")
            continue
        yield from (f"{indent}# {line}" for line in textwrap.wrap(_about(setting), WIDTH - len(indent)))
        if isinstance(setting.default, tuple):  # YAML has no empty list of doubles
            yield f"{indent}# {setting.name}: [48.2, 16.37]"
        else:
            yield f"{indent}{setting.name}: {_literal(setting.default)}"


def _about(setting: Field) -> str:
    about = setting.metadata
    limits = "{:g} to {:g}".format(*about["limits"]) if about["limits"] else ""
    bounds = ", ".join(part for part in (about["unit"], limits) if part)
    return about["description"] + (f" [{bounds}]" if bounds else "") + (" *" if about["live"] else "")


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    PATH.write_text(parameter_file())
