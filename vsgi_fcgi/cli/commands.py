"""All commands by the word that names them."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.cli.command import Command
from vsgi_fcgi.cli.config_options import CONFIG
from vsgi_fcgi.cli.doctor_options import DOCTOR
from vsgi_fcgi.cli.gateway_options import GATEWAY
from vsgi_fcgi.cli.options import SERVE
from vsgi_fcgi.cli.relay_options import RELAY

COMMANDS: Final[dict[str, Command]] = {
    command.name: command for command in (SERVE, CONFIG, DOCTOR, GATEWAY, RELAY)
}
