"""All settings of a start, from all sources, with the place that each comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vsgi_fcgi.cli.arguments import CommandLine
from vsgi_fcgi.cli.kinds import kind_of
from vsgi_fcgi.cli.options import (
    GROUPS,
    LISTENING,
    OPTIONS,
    Options,
    key_name,
    make_options,
    option_name,
    variable_name,
)
from vsgi_fcgi.cli.sources import CONFIG_VARIABLE, PYPROJECT, from_environment, from_file

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is used.

    Attributes:
        options: all settings.
        origins: for each field of `Options` where its value comes from: ``--threads``,
            ``VSGI_FCGI_THREADS``, the path of a file, or ``default``.
    """

    options: Options
    origins: dict[str, str]

    def as_toml(self) -> str:
        """All settings as a configuration file, with the place that each comes from."""
        lines: list[str] = []
        heading = None
        for name, item in OPTIONS.items():
            group = item.metadata["group"]
            if group != heading:
                heading = group
                lines += [*([""] if lines else []), f"# {GROUPS.get(group, 'the app')}"]
            lines.append(self._line(name))
        return "\n".join(lines) + "\n"

    def changed(self) -> list[str]:
        """The settings that are not left at their defaults, a line each."""
        return [self._line(name) for name in OPTIONS if self.origins[name] != DEFAULT]

    def _line(self, name: str) -> str:
        value = getattr(self.options, name)
        if value is None:
            setting = f"# {key_name(name)} is not set"
        else:
            setting = f"{key_name(name)} = {kind_of(name).show_all(value)}"
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
    variables = from_environment(environment)
    path = line.config or environment.get(CONFIG_VARIABLE) or None
    if path is None:
        folder = line.given.get("chdir") or variables.get("chdir") or ""
        near = os.path.join(folder, PYPROJECT)
        path = near if os.path.isfile(near) else None
    given: dict[str, Any] = {}
    origins = dict.fromkeys(OPTIONS, DEFAULT)
    labels: dict[str, str] = {}
    file = {} if path is None else from_file(path)
    for values, origin, label in (
        (file, lambda name: str(path), lambda name: f"{key_name(name)} in {path}"),
        (variables, variable_name, variable_name),
        (line.given, option_name, option_name),
    ):
        if any(name in values for name in LISTENING):
            for name in LISTENING:
                given.pop(name, None)
                origins[name] = DEFAULT
        for name, value in values.items():
            given[name], origins[name], labels[name] = value, origin(name), label(name)
    return Configuration(make_options(given, labels), origins)
