"""Values for settings, made from what the settings say of themselves."""

from __future__ import annotations

from typing import Any

from vsgi_fcgi.cli.options import OPTIONS, kind_of

_TEXTS = {
    "access_log_format": "common",
    "log_format": "json",
    "script_name": "/some:value",
    "sendfile_folder": "/srv",
}


def other_text(name: str) -> str:
    """The text of a value that a setting takes, and that is not its default."""
    item = OPTIONS[name]
    least = item.metadata["least"]
    if item.metadata["choices"]:
        return str(next(text for text in item.metadata["choices"] if text != item.default))
    if kind_of(name).metavar == "MODE":
        return "0641"
    if isinstance(item.default, bool):
        return "true"
    if isinstance(item.default, (int, float)):
        return f"{max(least or 0, 1) * 3:g}"
    if name in ("port", "file_descriptor"):
        return "7"
    return _TEXTS.get(name, "some:value")


def other_value(name: str) -> Any:
    """The value of `other_text`; a list has it once."""
    value = kind_of(name).read(other_text(name))
    return (value,) if kind_of(name).many else value
