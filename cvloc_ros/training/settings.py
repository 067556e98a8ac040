"""The training's YAML file: read strictly, so that a typo is an error, and written whole."""

from __future__ import annotations

import types
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


class ConfigError(ValueError):
    """A training's settings that cannot be used; the message says which, what was expected and what came."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        ConfigError: it is missing, or not a mapping.

    """
    if not path.is_file():
        raise ConfigError(f"expected a training's settings at {path}, got no file: name a YAML file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"expected YAML in {path}, got {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"expected a mapping of settings in {path}, got {_describe(content)}")
    return content


def write_yaml(config: Any, path: Path) -> None:
    """Write a dataclass object as `build` reads it, in the order of its fields; what was there is replaced whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True))
    temporary.replace(path)


def build(base: Any, values: Any, where: str = "") -> Any:
    """Build a dataclass object from plain values.

    Args:
        base: an object of the dataclass; its values are those of the fields that are left out.
        values: a mapping, as YAML gives it.
        where: the mapping's name, for messages.

    Raises:
        ConfigError: an unknown name, a value of a wrong type, or one that the dataclass refuses.

    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'settings'}: expected a mapping, got {_describe(values)}")
    known = [each.name for each in fields(base)]
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        raise ConfigError(f"{_join(where, unknown[0])}: expected one of {', '.join(known)}: no such setting")
    hints = get_type_hints(type(base))
    arguments = {
        name: build(getattr(base, name), value, _join(where, name))
        if is_dataclass(hints[name])
        else _convert(hints[name], value, _join(where, name))
        for name, value in values.items()
    }
    try:
        return replace(base, **arguments)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return build(kind(), value, where)  # type: ignore[operator]
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):  # X | None
        return None if value is None else _convert(get_args(kind)[0], value, where)
    if origin is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{where}: expected one of {', '.join(get_args(kind))}, got {_describe(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {_describe(value)}")
        inner = get_args(kind)
        inner = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        if len(inner) != len(value):
            raise ConfigError(f"{where}: expected a list of {len(inner)}, got {_describe(value)}")
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value, strict=True)))
    if kind is float and isinstance(value, str):
        try:
            return float(value)  # YAML takes 1e-3 for a string
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {kind.__name__}, got {_describe(value)}")
    return value


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _plain(value: Any) -> Any:
    """Return tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
