"""Where settings come from beside the command line: the environment and a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.cli.kinds import kind_of
from vsgi_fcgi.cli.options import OPTIONS, key_name, nearest, variable_name
from vsgi_fcgi.exceptions import UsageError

PYPROJECT = "pyproject.toml"
TABLE = "vsgi-fcgi"
CONFIG_VARIABLE = "VSGI_FCGI_CONFIG"

_PREFIX = "VSGI_FCGI_"
_OTHER_VARIABLES = {CONFIG_VARIABLE, "VSGI_FCGI_CHECK_CONTRACT"}


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings in environment variables.

    Args:
        environment: the variables, as ``os.environ`` has them.

    Returns:
        Values by the names of fields of `Options`. An empty variable says nothing.

    Raises:
        UsageError: one cannot be read, or there is no such setting.
    """
    names = {variable_name(name): name for name in OPTIONS}
    given: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if variable not in names:
            advice = nearest(variable, names) or "; unset it"
            raise UsageError(f"there is no setting for the variable {variable}{advice}")
        name = names[variable]
        if text.strip():
            given[name] = _checked(variable, kind_of(name).read_all, text)
    return given


def from_file(path: str) -> dict[str, Any]:
    """Read the settings in a configuration file.

    Args:
        path: a TOML file; of one that is called pyproject.toml, only ``[tool.vsgi-fcgi]``.

    Returns:
        Values by the names of fields of `Options`.

    Raises:
        UsageError: it cannot be read, or there is no such setting.
    """
    try:
        with open(path, "rb") as file:
            table: Any = tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"the configuration file {path} cannot be read: {os.strerror(error.errno or 0)}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from error
    if os.path.basename(path) == PYPROJECT:
        tool = table.get("tool", {})
        table = tool.get(TABLE, {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"{TABLE} in {path} is no table; write [tool.{TABLE}]")
    keys = {key_name(name): name for name in OPTIONS}
    given: dict[str, Any] = {}
    for key, value in table.items():
        known = key.replace("_", "-")
        if known not in keys:
            raise UsageError(f"there is no setting {key}, which {path} has{nearest(known, keys)}")
        name = keys[known]
        if name in given:
            raise UsageError(f"{path} has {known} twice, with - and with _; leave one of them")
        given[name] = _checked(f"{key} in {path}", kind_of(name).take_all, value)
    return given


def _checked(what: str, read: Any, value: object) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
