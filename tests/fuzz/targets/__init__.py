"""All targets, by name."""

from __future__ import annotations

from fuzz.driver import Target
from fuzz.targets import http, protocol, push, recordings, texts

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (protocol, http, push, texts, recordings)
    for target in module.TARGETS
}
