"""Where settings come from beside the command line: the environment and a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.cli.command import Command, key_name, nearest, variable_name
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.options import SERVE
from vsgi_fcgi.exceptions import UsageError

PYPROJECT = "pyproject.toml"
TABLE = "vsgi-fcgi"
CONFIG_VARIABLE = "VSGI_FCGI_CONFIG"

_PREFIX = "VSGI_FCGI_"
_OTHER_VARIABLES = {CONFIG_VARIABLE, "VSGI_FCGI_CHECK_CONTRACT"}


def from_environment(command: Command, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings in environment variables; those of other commands are passed over.

    Args:
        command: what is to be done.
        environment: the variables, as ``os.environ`` has them.

    Returns:
        Values by the names of the command's fields. An empty variable says nothing.

    Raises:
        UsageError: one cannot be read, or there is no such setting.
    """
    names = {variable_name(name): name for name in command.fields}
    others = {variable_name(name) for other in COMMANDS.values() for name in other.fields}
    given: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if variable not in names:
            if variable in others:
                continue
            advice = nearest(variable, names) or "; unset it"
            raise UsageError(f"there is no setting for the variable {variable}{advice}")
        name = names[variable]
        if text.strip():
            given[name] = _checked(variable, command.kind(name).read_all, text)
    return given


def from_file(command: Command, path: str) -> dict[str, Any]:
    """Read the settings in a configuration file.

    Those of a command with a name are in a table of that name, beside those of the command that
    it is based on.

    Args:
        command: what is to be done.
        path: a TOML file; of one that is called pyproject.toml, only ``[tool.vsgi-fcgi]``.

    Returns:
        Values by the names of the command's fields.

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
    tables = {name: table.pop(name) for name in COMMANDS if name and name in table}
    if command is SERVE:
        return _from_table(command, table, path)
    own = tables.get(command.name, {})
    if not isinstance(own, dict):
        raise UsageError(f"{command.name} in {path} is no table; write [{command.name}]")
    if command.subject is not None and command.base is not None:
        # The server reads the same file, but no table of another command.
        for key in own:
            if key.replace("-", "_") in command.base.fields:
                raise UsageError(
                    f"{key} in {path} is of the server, which does not look into the table"
                    f" {command.name}; write it above all tables"
                )
    given = {} if command.base is None else _from_table(command.base, table, path)
    return {**given, **_from_table(command, own, f"the table {command.name} of {path}")}


def _from_table(command: Command, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read the settings in a table.

    Raises:
        UsageError: there is no such setting, or it cannot be used.
    """
    keys = {key_name(name): name for name in command.fields}
    given: dict[str, Any] = {}
    for key, value in table.items():
        known = key.replace("_", "-")
        if known not in keys:
            raise UsageError(f"there is no setting {key}, which {where} has{nearest(known, keys)}")
        name = keys[known]
        if name in given:
            raise UsageError(f"{where} has {known} twice, with - and with _; leave one of them")
        given[name] = _checked(f"{key} in {where}", command.kind(name).take_all, value)
    return given


def _checked(what: str, read: Any, value: object) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
