"""The apps that the command serves: one for each role that has one."""

from __future__ import annotations

from vsgi_fcgi.cli.debugger import with_debugger
from vsgi_fcgi.cli.loading import load_app, parse_app_name
from vsgi_fcgi.cli.options import Options
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.wsgi.runner import App


def app_names(options: Options) -> dict[str, str]:
    """The names of the apps, by the fields of `Apps`.

    Raises:
        AppLoadError: one is not written as such a name is.
    """
    roles = {
        "responder": options.app,
        "authorizer": options.authorizer,
        "filter": options.filter,
    }
    names = {role: name for role, name in roles.items() if name is not None}
    for name in names.values():
        parse_app_name(name)
    return names


def load_apps(names: dict[str, str]) -> Apps:
    """Import all apps.

    Args:
        names: as `app_names` returns them.

    Raises:
        AppLoadError: one is not there, or its code failed.
    """
    return Apps(**{role: load_app(name) for role, name in names.items()})


def same_for_all(names: dict[str, str], app: App) -> Apps:
    """One app in place of them all."""
    return Apps(**dict.fromkeys(names, app))


def debugged(apps: Apps) -> Apps:
    """The apps with the debugger around them, but for the authorizer.

    The debugger answers requests of its own, such as those for its style sheet, with a 200: from
    an authorizer, that would let anybody through who asks for it.
    """
    around = {
        role: with_debugger(app)
        for role, app in (("responder", apps.responder), ("filter", apps.filter))
        if app is not None
    }
    return Apps(authorizer=apps.authorizer, **around)
