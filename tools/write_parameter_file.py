"""Write what is made from the code: config/localizer.yaml, doc/parameters.md and doc/diagnostics.md.

python tools/write_parameter_file.py

The dataclasses that define the parameters and the table of diagnostics say everything; a test compares.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from cvloc_ros.localization.gate import REASONS
from cvloc_ros.ros import diagnostics_table
from cvloc_ros.ros.config import NodeConfig

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 118
YAML_HEAD = """\
# Parameters of the node `cvloc`, each with its default; `ros2 param describe /cvloc <name>` says the same.
# Launch arguments win over this file. What is marked * may be changed while the node runs; the rest takes effect when
# it is configured.
#
# Made by tools/write_parameter_file.py.
/**/cvloc:
  ros__parameters:
"""
PARAMETERS_HEAD = """\
# Parameters

Of the node `cvloc`. Set them in a file (`params_file:=mine.yaml`; `config/localizer.yaml` is this page as YAML), by the
launch arguments that stand for some of them, which win over the file, or with `ros2 param set /cvloc NAME VALUE`: those
marked *live* take effect at once; the others shape what is built when the node is configured, and setting them before
then is the only way. To change one of them later: `ros2 lifecycle set /cvloc deactivate`, `cleanup`, set it,
`configure`, `activate`. A name that does not exist ends the node with the names that come close; so does a value of
another type or out of its range.

*Made by `tools/write_parameter_file.py` from the config classes.*
"""
DIAGNOSTICS_HEAD = """\
# Diagnostics

On `/diagnostics`, once a second of real time, also while all is well: `ros2 topic echo /diagnostics`,
`rqt_robot_monitor`, or Foxglove's Diagnostics panel. A status that leaves OK says what is wrong, on which topic, and
what to do; the same line is in the log once, and another one when it is over. What each single image came to, with all
numbers, is on `~/frame_status`. By symptom: [troubleshooting](troubleshooting.md).

*Made by `tools/write_parameter_file.py` from `cvloc_ros/ros/diagnostics_table.py`.*

"""


def documents() -> dict[Path, str]:
    """Return the content of every file that is made here."""
    return {
        ROOT / "config" / "localizer.yaml": YAML_HEAD + "\n".join(_yaml(NodeConfig, indent="    ")) + "\n",
        ROOT / "doc" / "parameters.md": PARAMETERS_HEAD + "\n".join(_tables(NodeConfig, prefix="")) + "\n",
        ROOT / "doc" / "diagnostics.md": DIAGNOSTICS_HEAD + diagnostics_table.markdown() + _reasons(),
    }


def _yaml(config: type, *, indent: str) -> Iterator[str]:
    for setting in fields(config):
        if is_dataclass(setting.default):
            yield ""
            yield f"{indent}# {_summary(setting)}"
            yield f"{indent}{setting.name}:"
            yield from _yaml(type(setting.default), indent=indent + "  ")
            continue
        about = setting.metadata["description"]
        bounds = ", ".join(part for part in (setting.metadata["unit"], _limits(setting)) if part)
        about += (f" [{bounds}]" if bounds else "") + (" *" if setting.metadata["live"] else "")
        yield from (f"{indent}# {line}" for line in textwrap.wrap(about, WIDTH - len(indent)))
        if isinstance(setting.default, tuple):  # YAML has no empty list of doubles
            yield f"{indent}# {setting.name}: [48.2, 16.37]"
        else:
            yield f"{indent}{setting.name}: {_literal(setting.default)}"


def _tables(config: type, *, prefix: str) -> Iterator[str]:
    """Yield a table of a group's own parameters, then the groups in it."""
    yield from ("", "| parameter | default | unit | range | | what |", "|---|---|---|---|---|---|")
    for setting in fields(config):
        if not is_dataclass(setting.default):
            about = setting.metadata
            default = "" if setting.default in ("", ()) else f"`{_literal(setting.default)}`"
            limits = _limits(setting) or ", ".join(f"`{choice}`" for choice in about["choices"])
            cells = [f"`{prefix}{setting.name}`", default, about["unit"], limits, "live" if about["live"] else ""]
            yield f"| {' | '.join(cells)} | {about['description']} |"
    for setting in fields(config):
        if is_dataclass(setting.default):
            name = f"{prefix}{setting.name}"
            yield from ("", f"## {name}", "", f"{_summary(setting)}.".replace("..", "."))
            yield from _tables(type(setting.default), prefix=f"{name}.")


def _reasons() -> str:
    lines = ["", "Reasons for which a localization does not count (`rejected.*`, `~/frame_status`):", ""]
    lines += ["| reason | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in REASONS.items())]
    return "\n".join(lines) + "\n"


def _summary(group: Field) -> str:
    return (type(group.default).__doc__ or "").splitlines()[0].partition(";")[0]


def _limits(setting: Field) -> str:
    return "{:g} to {:g}".format(*setting.metadata["limits"]) if setting.metadata["limits"] else ""


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    for path, content in documents().items():
        path.write_text(content)
