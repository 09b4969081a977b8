"""Read the settings in the environment and in a TOML file, and combine the sources."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from vsgi_fcgi.cli.commands import COMMANDS, SERVE
from vsgi_fcgi.cli.settings.command import GROUPS, Command, key_name, option_name, variable_name
from vsgi_fcgi.cli.settings.command_line import CommandLine
from vsgi_fcgi.cli.settings.options import LISTENING
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.settings import nearest

DEFAULT = "default"


class Configuration(NamedTuple):
    """The settings to use.

    Attributes:
        command: the command to run.
        options: all settings, an instance of the command's dataclass.
        origins: the source of each field: ``--threads``, ``VSGI_FCGI_THREADS``, the path of a
            file, or ``default``.
    """

    command: Command
    options: Any
    origins: dict[str, str]

    def as_toml(self) -> str:
        """Return all settings as a configuration file, with the source of each.

        Raises:
            UsageError: a setting cannot be written in TOML.
        """
        command, heading = self.command, None
        lines: list[str] = []
        if command.name and command.base is None:
            # The settings at the top level are those of the server.
            lines.append(f"[{command.name}]")
        for name, item in command.fields.items():
            group = item.metadata["group"]
            if group != heading:
                heading = group
                lines += [*([""] if lines else []), f"# {GROUPS.get(group, 'the app')}"]
            lines.append(self._line(name))
        return "\n".join(lines) + "\n"

    def changed(self) -> list[str]:
        """Return the settings that do not come from the defaults, a line each."""
        return [self._line(name) for name in self.command.fields if self.origins[name] != DEFAULT]

    def checked(self, verdict: str = "The settings are valid.") -> str:
        """Return the output of ``--check-config`` for valid settings.

        Args:
            verdict: the last line.
        """
        return "\n".join([*self.changed(), "", verdict]) + "\n"

    def _line(self, name: str) -> str:
        value = getattr(self.options, name)
        if value is None:
            setting = f"# {key_name(name)} is not set"
        else:
            setting = f"{key_name(name)} = {self.command.converter(name).all_to_toml(value)}"
        try:
            setting.encode()
        except UnicodeEncodeError:
            # A file name, from the command line or the environment, may have any bytes.
            raise UsageError(
                f"{key_name(name)} is {value!r}, which is not UTF-8 and cannot be written in TOML"
            ) from None
        return f"{setting:<40}  # {self.origins[name]}"


def resolve(line: CommandLine, environment: Mapping[str, str]) -> Configuration:
    """Combine the settings of the command line, the environment and the configuration file.

    The command line overrides the environment, and the environment overrides the file. The
    options that name addresses count as one: the strongest source that has one of them decides
    all of them. The default file is the pyproject.toml in the folder of ``--chdir``.

    Args:
        line: the command line.
        environment: the variables, usually ``os.environ``.

    Raises:
        UsageError: a setting is not valid.
    """
    command = line.command
    variables = from_environment(command, environment)
    path = line.config or environment.get(CONFIG_VARIABLE) or None
    if path is None:
        folder = line.given.get("chdir") or variables.get("chdir") or ""
        near = os.path.join(folder, PYPROJECT)
        path = near if os.path.isfile(near) else None
    given: dict[str, Any] = {}
    origins = dict.fromkeys(command.fields, DEFAULT)
    labels: dict[str, str] = {}
    file = {} if path is None else from_file(command, path)
    for values, origin, label in (
        (file, lambda name: str(path), lambda name: f"{key_name(name)} in {path}"),
        (variables, variable_name, variable_name),
        (line.given, option_name, option_name),
    ):
        if any(name in values for name in LISTENING):
            for name in LISTENING:
                if name in command.fields:
                    given.pop(name, None)
                    origins[name] = DEFAULT
        for name, value in values.items():
            given[name], origins[name], labels[name] = value, origin(name), label(name)
    return Configuration(command, command.make_options(given, labels), origins)


# The environment and the configuration file.

PYPROJECT = "pyproject.toml"
TABLE = "vsgi-fcgi"
CONFIG_VARIABLE = "VSGI_FCGI_CONFIG"

_LINK: Final = re.compile(r"(tcp|udp|sctp)://")
"""The value that Kubernetes and Docker set VSGI_FCGI_PORT to for a service named vsgi-fcgi."""

_PREFIX = "VSGI_FCGI_"
_OTHER_VARIABLES = {CONFIG_VARIABLE, "VSGI_FCGI_CHECK_CONTRACT"}


def from_environment(command: Command, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings in environment variables. Ignores those of other commands.

    Warns of a variable that is not a setting, which is probably misspelled.

    Args:
        command: the command to run.
        environment: the variables, usually ``os.environ``.

    Returns:
        Values by the names of the command's fields. Empty variables are left out.

    Raises:
        UsageError: the value of a variable is not valid.
    """
    names = {variable_name(name): name for name in command.fields}
    given: dict[str, Any] = {}
    unknown: list[str] = []
    ignored: list[str] = []
    for variable, text in environment.items():
        if not variable.startswith(_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if variable not in names:
            unknown.append(variable)
            continue
        if _LINK.match(text):
            ignored.append(variable)
            continue
        name = names[variable]
        if text.strip():
            given[name] = _checked(variable, command.converter(name).parse_all, text)
    if unknown:
        # Only if necessary, because this imports every command's options.
        others = {variable_name(name) for other in COMMANDS.values() for name in other.fields}
        for variable in unknown:
            if variable not in others:
                hint = nearest(variable, names).removeprefix("; ")
                ignored.append(f"{variable} ({hint})" if hint else variable)
    if ignored and sys.stderr is not None:
        sys.stderr.write(
            "vsgi-fcgi: warning: these environment variables are not settings and are ignored:"
            f" {', '.join(sorted(ignored))}\n"
        )
    return given


def from_file(command: Command, path: str) -> dict[str, Any]:
    """Read the settings in a configuration file.

    The settings of the server are at the top level. Each other command has a table of its name,
    and also uses the settings of its base.

    Args:
        command: the command to run.
        path: a TOML file. Of a pyproject.toml, only the table ``[tool.vsgi-fcgi]`` counts.

    Returns:
        Values by the names of the command's fields.

    Raises:
        UsageError: the file cannot be read, or a setting in it is not valid.
    """
    import tomllib  # only if there is a file

    try:
        with open(path, "rb") as file:
            table: Any = tomllib.load(file)
    except OSError as error:
        raise UsageError(
            f"the configuration file {path} cannot be read: {os.strerror(error.errno or 0)}"
        ) from error
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: a number may be too long, and arrays may be nested too deeply.
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from error
    if os.path.basename(path) == PYPROJECT:
        tool = table.get("tool", {})
        table = tool.get(TABLE, {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"{TABLE} in {path} is not a table; write [tool.{TABLE}]")
    tables = {name: table.pop(name) for name in COMMANDS if name and name in table}
    if command is SERVE:
        return _from_table(command, table, path)
    own = tables.get(command.name, {})
    if not isinstance(own, dict):
        raise UsageError(f"{command.name} in {path} is not a table; write [{command.name}]")
    if command.subject is not None and command.base is not None:
        # The server reads the same file, but not the tables of other commands.
        for key in own:
            if key.replace("-", "_") in command.base.fields:
                raise UsageError(
                    f"{key} in {path} is a setting of the server, which does not read the table"
                    f" {command.name}; write it above all tables"
                )
    given = {} if command.base is None else _from_table(command.base, table, path)
    return {**given, **_from_table(command, own, f"the table {command.name} of {path}")}


def _from_table(command: Command, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read the settings in a table.

    Raises:
        UsageError: there is no such setting, or its value is not valid.
    """
    keys = {key_name(name): name for name in command.fields}
    given: dict[str, Any] = {}
    for key, value in table.items():
        known = key.replace("_", "-")
        if known not in keys:
            raise UsageError(f"{key} in {where}: there is no such setting{nearest(known, keys)}")
        name = keys[known]
        if name in given:
            raise UsageError(f"{known} is twice in {where}, with - and with _; remove one of them")
        given[name] = _checked(f"{key} in {where}", command.converter(name).all_from_toml, value)
    return given


def _checked(what: str, read: Any, value: object) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
