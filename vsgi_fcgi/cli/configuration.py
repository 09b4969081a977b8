"""All settings of a start, from all sources, with the place that each comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vsgi_fcgi.cli.arguments import CommandLine
from vsgi_fcgi.cli.command import GROUPS, Command, key_name, option_name, variable_name
from vsgi_fcgi.cli.options import LISTENING
from vsgi_fcgi.cli.sources import CONFIG_VARIABLE, PYPROJECT, from_environment, from_file

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is used.

    Attributes:
        command: what is to be done.
        options: all settings, an instance of the command's dataclass.
        origins: for each of its fields where its value comes from: ``--threads``,
            ``VSGI_FCGI_THREADS``, the path of a file, or ``default``.
    """

    command: Command
    options: Any
    origins: dict[str, str]

    def as_toml(self) -> str:
        """All settings as a configuration file, with the place that each comes from."""
        lines: list[str] = []
        heading = None
        for name, item in self.command.fields.items():
            group = item.metadata["group"]
            if group != heading:
                heading = group
                lines += [*([""] if lines else []), f"# {GROUPS.get(group, 'the app')}"]
            lines.append(self._line(name))
        return "\n".join(lines) + "\n"

    def changed(self) -> list[str]:
        """The settings that are not left at their defaults, a line each."""
        return [self._line(name) for name in self.command.fields if self.origins[name] != DEFAULT]

    def checked(self, verdict: str = "The settings can be used.") -> str:
        """What ``--check-config`` says when all is well.

        Args:
            verdict: the last line.
        """
        return "\n".join([*self.changed(), "", verdict]) + "\n"

    def _line(self, name: str) -> str:
        value = getattr(self.options, name)
        if value is None:
            setting = f"# {key_name(name)} is not set"
        else:
            setting = f"{key_name(name)} = {self.command.kind(name).show_all(value)}"
        return f"{setting:<40}  # {self.origins[name]}"


def configure(line: CommandLine, environment: Mapping[str, str]) -> Configuration:
    """Join what the command line, the environment and the configuration file say.

    The command line has precedence over the environment, and that over the file. The options
    that name addresses are one in this: the strongest source that has one of them has them all.
    Without a named file it is the pyproject.toml of the folder in which the server is to work.

    Args:
        line: the command line.
        environment: the variables, as ``os.environ`` has them.

    Raises:
        UsageError: something in one of them cannot be used.
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
    return Configuration(command, command.make(given, labels), origins)
