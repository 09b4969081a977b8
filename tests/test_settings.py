"""Test how objects with settings are compared and shown."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import Any

import pytest

from vsgi_fcgi import Config
from vsgi_fcgi.cli.commands.config import ConfigOptions
from vsgi_fcgi.cli.commands.forward import GatewayOptions
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.paste import PasteOptions
from vsgi_fcgi.settings import SettingsBase


def test_settings_are_equal_if_all_of_their_values_are() -> None:
    assert Config(threads=3, push_key="a") == Config(push_key="a", threads=3)
    assert len({Config(threads=3), Config(threads=3), Config()}) == 2
    assert Config(threads=3) != Config(threads=4)
    # Of the first field, of the last, and of one of each base.
    given: dict[str, Any] = {"worker": "main", "max_log_bytes": 2**20, "backlog": 7, "push": True}
    for name, value in given.items():
        assert Config(**{name: value}) != Config()
    # An object of a class that has more settings has others.
    assert Config() != Options()
    assert Config() != tuple(getattr(Config(), item.name) for item in fields(Config))


def test_settings_are_shown_with_their_names() -> None:
    shown = repr(Config(script_name="/a b"))
    assert shown.startswith("Config(")
    assert ", script_name='/a b', " in shown
    names = [item.partition("=")[0] for item in shown[len("Config(") : -1].split(", ")]
    assert names == [item.name for item in fields(Config)]


def test_settings_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(FrozenInstanceError):
        config.threads = 3  # type: ignore[misc]


def test_no_class_of_settings_has_generated_comparisons() -> None:
    """They would delay the start, and a class inherited those of a base, for a few fields only."""
    kinds, ahead = set(), [SettingsBase]
    while ahead:
        for kind in ahead.pop().__subclasses__():
            kinds.add(kind)
            ahead.append(kind)
    assert {Config, Options, PasteOptions, GatewayOptions, ConfigOptions} < kinds
    for kind in kinds:
        assert is_dataclass(kind)
        assert not {"__eq__", "__hash__", "__repr__"} & vars(kind).keys(), kind
