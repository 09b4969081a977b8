"""Make values for settings from their declarations."""

from __future__ import annotations

from typing import Any

from vsgi_fcgi.cli.commands import SERVE

_TEXTS = {
    "access_log_format": "common",
    "log_format": "json",
    "max_memory": "300M",
    "max_requests": "30",
    "processes": "auto",
    "script_name": "/some:value",
    "status_path": "/some:value",
    "sendfile_folder": "/srv",
}


def other_text(name: str) -> str:
    """The text of a value that a setting takes, and that is not its default."""
    item = SERVE.fields[name]
    least = item.metadata["minimum"]
    if item.metadata["choices"]:
        return str(next(text for text in item.metadata["choices"] if text != item.default))
    if SERVE.converter(name).metavar == "MODE":
        return "0641"
    if isinstance(item.default, bool):
        return "false" if item.default else "true"
    if isinstance(item.default, (int, float)) or SERVE.converter(name).metavar == "SECONDS":
        return f"{max(least or 0, 1) * 3:g}"
    if name in ("port", "file_descriptor"):
        return "7"
    return _TEXTS.get(name, "some:value")


def other_value(name: str) -> Any:
    """The value of `other_text`; a list has it once."""
    value = SERVE.converter(name).parse(other_text(name))
    return (value,) if SERVE.converter(name).repeated else value
