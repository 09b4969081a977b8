"""Send this file to a filter and print its response, because no web server uses filters.

From the project's root::

    vsgi-fcgi --chdir examples/roles --filter app:upper --socket /tmp/roles.sock &
    python examples/roles/ask_filter.py unix:/tmp/roles.sock
"""

from __future__ import annotations

import sys
from pathlib import Path

from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.protocol import Role

file = Path(__file__)
params = {
    "FCGI_DATA_LENGTH": str(file.stat().st_size),
    "FCGI_DATA_LAST_MOD": str(int(file.stat().st_mtime)),
}
with FastCGIClient(sys.argv[1]) as client, file.open("rb") as data:
    answer = client.request("GET", "/", data=data, params=params, role=Role.FILTER)
    print(answer.read().decode(), end="")
