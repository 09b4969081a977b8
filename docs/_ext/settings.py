"""Directives that generate the reference from the settings and the parser of the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vsgi_fcgi.cli.commands import COMMANDS, SERVE
from vsgi_fcgi.cli.settings.command import (
    GROUPS,
    Command,
    Converter,
    key_name,
    option_name,
    variable_name,
)
from vsgi_fcgi.cli.settings.command_line import EXIT_STATUSES, default_of, make_parser, spelled
from vsgi_fcgi.cli.settings.man_page import ENVIRONMENT, SIGNALS
from vsgi_fcgi.server.config import Config

_TYPES = {"": "true or false", "N": "whole number", "SECONDS": "seconds", "MODE": "octal number"}
"""Names of the types, by the metavars of `Converter`."""


def settings_text() -> str:
    """Return every setting of the server in MyST's Markdown, in groups."""
    parts, group = [], ""
    for name, item in SERVE.fields.items():
        if item.metadata["group"] != group:
            group = item.metadata["group"]
            title = GROUPS.get(group, "the app")
            parts.append(f"## {title[0].upper()}{title[1:]}\n")
        parts.append(_entry(name))
    return "\n".join(parts)


def table_text(command: Command) -> str:
    """Return the settings of one of the other commands as tables, one for each group.

    The reference already contains the settings of its base command.
    """
    parts, group = [], ""
    for name, item in command.own.items():
        if item.metadata["group"] != group:
            group = item.metadata["group"]
            title = GROUPS[group]
            parts.append(f"\n## {title[0].upper()}{title[1:]}\n")
            parts.append("| option | meaning | default |\n|---|---|---|")
        converter = command.converter(name)
        value = item.metadata["metavar"] or converter.metavar
        if item.metadata["choices"]:
            value = "|".join(item.metadata["choices"])
        words = f"{option_name(name)} {value}".rstrip().replace("|", "\\|")
        text = re.sub(r"[*<>\[\]{}|$]", r"\\\g<0>", item.metadata["help"])
        parts.append(f"| `{words}` | {text} | {default_of(item, converter)} |")
    return "\n".join(parts) + "\n"


def _entry(name: str) -> str:
    item, converter = SERVE.fields[name], SERVE.converter(name)
    names = [option_name(name), *item.metadata["aliases"]]
    value = item.metadata["metavar"] or converter.metavar
    if item.metadata["choices"]:
        value = f"{{{','.join(item.metadata['choices'])}}}"
    if name == "app":
        names, value = ["APP"], ""
    elif isinstance(item.default, bool):
        names.append(f"--no-{key_name(name)}")
    signature = ", ".join(f"{word} {value}".rstrip() for word in names)
    lines = [f"(setting-{key_name(name)})=", f":::{{option}} {signature}", ""]
    lines += [f"{_sentence(item.metadata['help'])}", ""]
    lines += [f":{title}: {text}" for title, text in _facts(name, converter) if text]
    return "\n".join([*lines, ":::", ""])


def _facts(name: str, converter: Converter) -> list[tuple[str, str]]:
    item = SERVE.fields[name]
    default = default_of(item, converter)
    if isinstance(item.default, bool):
        default = "true" if item.default else "false"
    if default and not item.metadata["default_text"]:
        default = f"`{default}`"
    allowed = _TYPES.get(converter.metavar, "text")
    if item.metadata["choices"]:
        allowed = ", ".join(f"`{choice}`" for choice in item.metadata["choices"])
    for word, bound in (
        ("at least", item.metadata["minimum"]),
        ("at most", item.metadata["maximum"]),
    ):
        if bound is not None:
            shown = f"{bound:04o}" if converter.metavar == "MODE" else f"{bound:.10g}"
            allowed += f", {word} {shown}"
    if converter.repeated:
        allowed += "; may be given several times"
    listed = " (separated by commas)" if converter.repeated else ""
    written = [f"`{key_name(name)}` in the file", f"`{variable_name(name)}`{listed}"]
    if name in Config.__dataclass_fields__:
        written.append(f"`{name}=` of `Server`")
    return [("Values", allowed), ("Default", default), ("Also", ", ".join(written))]


def command_text() -> str:
    """Return the information options in MyST's Markdown."""
    parser = make_parser()
    settings = {option_name(name) for name in SERVE.fields}
    parts = []
    for action in parser._actions:
        if action.option_strings and not settings.intersection(action.option_strings):
            text = _sentence((action.help or "").replace("%%", "%"))
            parts.append(f":::{{option}} {spelled(action)}\n\n{text}\n:::\n")
    return "\n".join(parts)


def description_text() -> str:
    """Return the texts before and after the options in the help."""
    return f"{SERVE.description} {_escaped(SERVE.epilog)}"


def commands_text() -> str:
    """Return the other commands as a table, each with a link to its page."""
    rows = ((f"{{doc}}`{name}`", item.summary) for name, item in COMMANDS.items() if name)
    return _table("command", rows)


def exit_statuses_text() -> str:
    """Return the exit statuses as a table."""
    return _table("status", ((str(status), text) for status, text in EXIT_STATUSES.items()))


def signals_text() -> str:
    """Return the signals as a table."""
    return _table("signal", SIGNALS)


def environment_text() -> str:
    """Return the environment variables of the command as a table."""
    return _table("variable", ((f"`{names}`", text) for names, text in ENVIRONMENT))


def _table(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {term} | {_escaped(text)} |" for term, text in rows]
    return "\n".join([f"| {heading} | meaning |", "|---|---|", *lines])


def _sentence(text: str) -> str:
    """Turn a help text into a sentence."""
    text = _escaped(text)
    return f"{text[0].upper()}{text[1:]}."


def _escaped(text: str) -> str:
    """Escape markup in a text, and turn options into links and variables into code."""
    text = re.sub(r"[\\*<>\[\]{}|$]", r"\\\g<0>", text)
    text = re.sub(r"(?<!\S)--[a-z][a-z0-9-]+", r"{option}`\g<0>`", text)
    return re.sub(r"\b[A-Z]+_[A-Z_]+(=\w+)?", r"`\g<0>`", text)


class Generated(SphinxDirective):
    """A directive that inserts text generated at each build."""

    text: ClassVar[Callable[[], str]]

    def run(self) -> list[nodes.Node]:
        """Parse the generated text at the place of the directive."""
        return self.parse_text_to_nodes(type(self).text(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register a directive for each of the texts."""
    texts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("settings", settings_text),
        *((f"{name}-settings", partial(table_text, COMMANDS[name])) for name in COMMANDS if name),
        ("command-information", command_text),
        ("command-description", description_text),
        ("commands", commands_text),
        ("exit-statuses", exit_statuses_text),
        ("signals", signals_text),
        ("environment-variables", environment_text),
    )
    for name, text in texts:
        members: dict[str, object] = {"text": staticmethod(text)}
        app.add_directive(name, type("Generated", (Generated,), members))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
