"""The reference of the settings and of the command, made from what the command itself reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vsgi_fcgi.cli.arguments import EXIT_STATUSES, default_of, make_parser, spelled
from vsgi_fcgi.cli.command import GROUPS, Command, key_name, option_name, variable_name
from vsgi_fcgi.cli.commands import COMMANDS
from vsgi_fcgi.cli.kinds import Kind
from vsgi_fcgi.cli.manual import ENVIRONMENT, SIGNALS
from vsgi_fcgi.cli.options import OPTIONS, SERVE, kind_of
from vsgi_fcgi.server.config import Config

_TYPES = {"": "true or false", "N": "whole number", "SECONDS": "seconds", "MODE": "octal number"}
"""What the types are called, by the names that `Kind` has for their values."""


def settings_text() -> str:
    """Every setting of the server, group by group, in MyST's Markdown."""
    parts, group = [], ""
    for name, item in OPTIONS.items():
        if item.metadata["group"] != group:
            group = item.metadata["group"]
            title = GROUPS.get(group, "the app")
            parts.append(f"## {title[0].upper()}{title[1:]}\n")
        parts.append(_entry(name))
    return "\n".join(parts)


def table_text(command: Command) -> str:
    """The settings of one of the other commands as tables, one for each group.

    Those of the command that it is based on have their place in the reference already.
    """
    parts, group = [], ""
    for name, item in command.own.items():
        if item.metadata["group"] != group:
            group = item.metadata["group"]
            title = GROUPS[group]
            parts.append(f"\n## {title[0].upper()}{title[1:]}\n")
            parts.append("| option | meaning | default |\n|---|---|---|")
        kind = command.kind(name)
        value = item.metadata["metavar"] or kind.metavar
        if item.metadata["choices"]:
            value = "|".join(item.metadata["choices"])
        words = f"{option_name(name)} {value}".rstrip().replace("|", "\\|")
        text = re.sub(r"[*<>\[\]{}|$]", r"\\\g<0>", item.metadata["help"])
        parts.append(f"| `{words}` | {text} | {default_of(item, kind)} |")
    return "\n".join(parts) + "\n"


def _entry(name: str) -> str:
    item, kind = OPTIONS[name], kind_of(name)
    names = [option_name(name), *item.metadata["aliases"]]
    value = item.metadata["metavar"] or kind.metavar
    if item.metadata["choices"]:
        value = f"{{{','.join(item.metadata['choices'])}}}"
    if name == "app":
        names, value = ["APP"], ""
    elif isinstance(item.default, bool):
        names.append(f"--no-{key_name(name)}")
    signature = ", ".join(f"{word} {value}".rstrip() for word in names)
    lines = [f"(setting-{key_name(name)})=", f":::{{option}} {signature}", ""]
    lines += [f"{_sentence(item.metadata['help'])}", ""]
    lines += [f":{title}: {text}" for title, text in _facts(name, kind) if text]
    return "\n".join([*lines, ":::", ""])


def _facts(name: str, kind: Kind) -> list[tuple[str, str]]:
    item = OPTIONS[name]
    default = default_of(item, kind)
    if isinstance(item.default, bool):
        default = "true" if item.default else "false"
    if default and not item.metadata["default_text"]:
        default = f"`{default}`"
    allowed = _TYPES.get(kind.metavar, "text")
    if item.metadata["choices"]:
        allowed = ", ".join(f"`{choice}`" for choice in item.metadata["choices"])
    for word, bound in (("at least", item.metadata["least"]), ("at most", item.metadata["most"])):
        if bound is not None:
            shown = f"{bound:04o}" if kind.metavar == "MODE" else f"{bound:.10g}"
            allowed += f", {word} {shown}"
    if kind.many:
        allowed += "; may be given several times"
    listed = " (commas part the items)" if kind.many else ""
    written = [f"`{key_name(name)}` in the file", f"`{variable_name(name)}`{listed}"]
    if name in Config.__dataclass_fields__:
        written.append(f"`{name}=` of `Server`")
    return [("Values", allowed), ("Default", default), ("Also", ", ".join(written))]


def command_text() -> str:
    """The options that ask for information, in MyST's Markdown."""
    parser = make_parser()
    settings = {option_name(name) for name in OPTIONS}
    parts = []
    for action in parser._actions:
        if action.option_strings and not settings.intersection(action.option_strings):
            text = _sentence((action.help or "").replace("%%", "%"))
            parts.append(f":::{{option}} {spelled(action)}\n\n{text}\n:::\n")
    return "\n".join(parts)


def description_text() -> str:
    """What the help says before and after the options."""
    return f"{SERVE.description} {_escaped(SERVE.epilog)}"


def exit_statuses_text() -> str:
    """The exit statuses as a table."""
    return _table("status", ((str(status), text) for status, text in EXIT_STATUSES.items()))


def signals_text() -> str:
    """The signals as a table."""
    return _table("signal", SIGNALS)


def environment_text() -> str:
    """The environment variables that are read as a table."""
    return _table("variable", ((f"`{names}`", text) for names, text in ENVIRONMENT))


def _table(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {term} | {_escaped(text)} |" for term, text in rows]
    return "\n".join([f"| {heading} | meaning |", "|---|---|", *lines])


def _sentence(text: str) -> str:
    """Make a sentence of a help text."""
    text = _escaped(text)
    return f"{text[0].upper()}{text[1:]}."


def _escaped(text: str) -> str:
    """A text in which nothing is markup, but options are links, and variables are code."""
    text = re.sub(r"[\\*<>\[\]{}|$]", r"\\\g<0>", text)
    text = re.sub(r"(?<!\S)--[a-z][a-z0-9-]+", r"{option}`\g<0>`", text)
    return re.sub(r"\b[A-Z]+_[A-Z_]+(=\w+)?", r"`\g<0>`", text)


class Generated(SphinxDirective):
    """A directive that stands for text which is made at each build."""

    text: ClassVar[Callable[[], str]]

    def run(self) -> list[nodes.Node]:
        """Parse the text where the directive stands."""
        return self.parse_text_to_nodes(type(self).text(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register a directive for each of the texts."""
    texts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("settings", settings_text),
        *((f"{name}-settings", partial(table_text, COMMANDS[name])) for name in COMMANDS if name),
        ("command-information", command_text),
        ("command-description", description_text),
        ("exit-statuses", exit_statuses_text),
        ("signals", signals_text),
        ("environment-variables", environment_text),
    )
    for name, text in texts:
        members: dict[str, object] = {"text": staticmethod(text)}
        app.add_directive(name, type("Generated", (Generated,), members))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
