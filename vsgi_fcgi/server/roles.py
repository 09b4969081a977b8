"""The roles of FastCGI (section 6), and the app for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.wsgi.response import App

ROLE_NAMES: Final[Mapping[int, str]] = {int(role): role.name for role in Role}
"""The names of the roles, as libfcgi sets them in FCGI_ROLE."""


@dataclass(frozen=True, slots=True)
class Apps:
    """The apps of a server. Requests for a role without an app are answered with UNKNOWN_ROLE.

    Attributes:
        responder: the app that answers requests.
        authorizer: the app that decides whether the web server may serve a request.
        filter: the app that gets a file from the web server together with the request.

    Raises:
        UsageError: there is no app at all.
    """

    responder: App | None = None
    authorizer: App | None = None
    filter: App | None = None

    def __post_init__(self) -> None:
        if not self.by_role:
            raise UsageError("there is no app to serve: give one, or an authorizer or a filter")

    @property
    def by_role(self) -> dict[int, App]:
        """The apps, by role number."""
        named = ((Role[item.name.upper()], getattr(self, item.name)) for item in fields(self))
        return {int(role): app for role, app in named if app is not None}

    @property
    def roles(self) -> frozenset[int]:
        """The numbers of the roles that have an app."""
        return frozenset(self.by_role)
