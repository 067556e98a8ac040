"""How a setting is declared: a dataclass field that knows its description, unit and limits.

The ROS parameters, config/localizer.yaml, the documentation and the checks are all made from these declarations::

    @dataclass(frozen=True)
    class GateConfig:
        min_coverage: float = setting(0.6, "share of the patch that imagery must cover", limits=(0.0, 1.0))

        def __post_init__(self) -> None:
            check_settings(self)
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """Return a dataclass field with all of this in its metadata, under the arguments' names.

    Args:
        default: the value unless told otherwise; its type is the setting's.
        description: what it is, for people who have not seen the code.
        unit: in which it is given.
        limits: the least and the largest value.
        choices: all possible values, where there are few.
        live: whether it may be changed while the node runs.

    """
    return field(
        default=default,
        metadata={"description": description, "unit": unit, "limits": limits, "choices": choices, "live": live},
    )


def check_settings(config: Any) -> None:
    """Check all settings of a dataclass object against their limits and choices; other fields are left alone.

    Raises:
        ValueError: one of them is outside.

    """
    for each in fields(config):
        value, about = getattr(config, each.name), each.metadata
        if not about:
            continue
        if about["limits"] and not about["limits"][0] <= value <= about["limits"][1]:
            low, high = about["limits"]
            unit = f" {about['unit']}" if about["unit"] else ""
            raise ValueError(f"{each.name}: expected {low} to {high}{unit}, got {value}")
        if about["choices"] and value not in about["choices"]:
            raise ValueError(f"{each.name}: expected one of {', '.join(about['choices'])}, got '{value}'")
