"""ROS parameters from frozen dataclasses, and back: declared with description, unit and range, checked, typed.

A `setting` that is ``live`` may be set at any time. All others shape what is built when the node is
configured: they may be set while the node is unconfigured, and otherwise the refusal says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

Config = TypeVar("Config")

# Set by ROS itself on every node.
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")


class ParameterError(ValueError):
    """A parameter that does not exist or cannot have its value."""


def settings(config: type, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Yield the parameter name and dataclass field of every setting, depth first."""
    for each in fields(config):
        group = each.default if is_dataclass(each.default) else None
        if group is not None:
            yield from settings(type(group), f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", each


def default_of(setting: Field) -> Any:
    """Return what a setting is declared with: its default, or its type where the default is an empty list."""
    if setting.default is MISSING:
        raise TypeError(f"setting {setting.name} needs a default")
    return Parameter.Type.DOUBLE_ARRAY if isinstance(setting.default, tuple) else setting.default


def descriptor(setting: Field) -> ParameterDescriptor:
    """Describe a setting: what it is, its unit, its range, when it may change."""
    about = setting.metadata
    unit = f" [{about['unit']}]" if about["unit"] else ""
    result = ParameterDescriptor(description=about["description"] + unit)
    constraints = [] if about["live"] else ["takes effect when the node is configured"]
    if about["choices"]:
        constraints.append("one of: " + ", ".join(about["choices"]))
    result.additional_constraints = "; ".join(constraints)
    if about["limits"]:
        low, high = about["limits"]
        if isinstance(setting.default, int):
            result.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        else:
            result.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    return result


def declare(node: Node, config: type) -> None:
    """Declare every setting of a config class on a node.

    Raises:
        ParameterError: a parameter was given that does not exist, or a value of the wrong type or out of range.

    """
    known = dict(settings(config))
    overrides = getattr(node, "_parameter_overrides", {})  # rclpy offers no other way to see what was asked for
    for name in overrides:
        if name not in known and not name.startswith(_OF_ROS):
            similar = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(similar)}?" if similar else f"known are: {', '.join(known)}"
            raise ParameterError(f"there is no parameter '{name}': {hint}")
    for name, setting in known.items():
        try:
            value = node.declare_parameter(name, default_of(setting), descriptor(setting)).value
        except InvalidParameterTypeException:
            got = overrides[name].value
            raise ParameterError(
                f"parameter '{name}' expects {_type_name(setting)}, got {got!r} ({type(got).__name__})"
            ) from None
        except InvalidParameterValueException:
            low, high = setting.metadata["limits"]
            unit = f" {setting.metadata['unit']}" if setting.metadata["unit"] else ""
            raise ParameterError(
                f"parameter '{name}' expects {low} to {high}{unit}, got {overrides[name].value}"
            ) from None
        _check_choice(name, setting, value)


def read(node: Node, config: type[Config], prefix: str = "") -> Config:
    """Build a config object from the node's parameters.

    Raises:
        ParameterError: the values contradict one another.

    """
    values: dict[str, Any] = {}
    for each in fields(config):  # type: ignore[arg-type]
        if is_dataclass(each.default):
            values[each.name] = read(node, type(each.default), f"{prefix}{each.name}.")
            continue
        name = f"{prefix}{each.name}"
        if isinstance(each.default, tuple):
            unset = Parameter(name, Parameter.Type.DOUBLE_ARRAY, list(each.default))
            values[each.name] = tuple(node.get_parameter_or(name, unset).value)
        else:
            values[each.name] = node.get_parameter(name).value
    try:
        return config(**values)
    except ValueError as error:
        raise ParameterError(str(error)) from error


def check_changes(config: type, changes: list[Parameter], *, configured: bool) -> SetParametersResult:
    """Answer a request to set parameters at run time, as a callback of `add_on_set_parameters_callback` must."""
    known = dict(settings(config))
    for parameter in changes:
        setting = known.get(parameter.name)
        if setting is None:
            continue
        if configured and not setting.metadata["live"]:
            reason = f"'{parameter.name}' takes effect when the node is configured: deactivate and clean it up first"
            return SetParametersResult(successful=False, reason=reason)
        try:
            _check_choice(parameter.name, setting, parameter.value)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _check_choice(name: str, setting: Field, value: Any) -> None:
    choices = setting.metadata["choices"]
    if choices and value not in choices:
        raise ParameterError(f"parameter '{name}' expects one of {', '.join(choices)}, got '{value}'")


def _type_name(setting: Field) -> str:
    if isinstance(setting.default, tuple):
        return "a list of doubles, e.g. [48.2, 16.37]"
    names = {bool: "true or false", int: "an integer", float: "a double, e.g. 1.0", str: "a string"}
    return names[type(setting.default)]
