"""Where scenarios run: an app behind something that holds its requests."""

from __future__ import annotations

import json
import re
import threading
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support.front_ends.servers import APPS, AppServer, Nginx, command, find
from support.http import request
from support.processes import Process, ProcessGroup, free_port, wait_until

APP = "apps.push:app"
RECORDED = Path(__file__).with_name("pushpin-1.36.json")
"""What clients get behind Debian 12's Pushpin 1.36.0."""

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")
"""Headers of a connection; they are not compared."""

Answer = list[Any]
"""What the app answers: status, headers, body."""

Shown = list[Any]
"""What a client gets: status, sorted headers, body, and whether the response has ended."""

_STEP = 1.0
"""Seconds after which an item is published again if it has had no effect."""


class Refused(Exception):
    """What was published is malformed."""


class Exchange:
    """One request, whose response a thread reads.

    Args:
        port: the port on loopback.
        method: the method.
        target: the path and the query string.
        headers: the headers.
        body: the body.
    """

    def __init__(
        self, port: int, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self._connection.request(method, target, body or None, headers)
        self._changed = threading.Condition()
        self._head: list[Any] = ["", []]
        self._body = b""
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            response = self._connection.getresponse()
            headers = [[name.lower(), value] for name, value in response.headers.items()]
            ignored = (*HOP_BY_HOP, "date", "server")
            with self._changed:
                self._head = [
                    f"{response.status} {response.reason}",
                    sorted(pair for pair in headers if pair[0] not in ignored),
                ]
                self._changed.notify_all()
            while data := response.read1(65536):
                with self._changed:
                    self._body += data
                    self._changed.notify_all()
        except (OSError, HTTPException):
            return  # `close` was called, or the response broke
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def has(self, text: str, within: float) -> bool:
        """Wait until the body contains a text, or has ended; return whether it does."""
        with self._changed:
            self._changed.wait_for(lambda: text.encode() in self._body or self._ended, within)
            return text.encode() in self._body

    def ends(self, within: float = 30.0) -> bool:
        """Wait until the response has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, within)

    def shown(self, until: str = "") -> Shown:
        """Return what has come, up to a text, and end the request."""
        self.close()
        status, headers = self._head
        if status.startswith("502 "):
            return [status]  # the page is that of the server
        # Whether there is one depends on what is in front. It is shown only if it is wrong.
        length = ["content-length", str(len(self._body))]
        headers = [pair for pair in headers if pair != length]
        body = self._body.decode("utf-8", "backslashreplace")
        if until and until in body:
            body = body[: body.index(until) + len(until)]
        return [status, headers, body, self._ended]

    def close(self) -> None:
        """End the request."""
        sock = self._connection.sock
        if sock is not None and not self._ended:
            sock.shutdown(2)
        self._thread.join()
        self._connection.close()


class Site:
    """An app behind something that holds its requests.

    Args:
        port: the port of its HTTP server on loopback.
        mount: the path of the app.
        publish_port: the port of ``/publish/``.
    """

    def __init__(self, port: int, mount: str, publish_port: int) -> None:
        self.port = port
        self.mount = mount
        self.publish_port = publish_port

    def ask(
        self,
        name: str,
        *answers: Answer,
        method: str = "GET",
        body: bytes = b"",
        **headers: str,
    ) -> Exchange:
        """Send a request to the app, which gives these answers one after the other."""
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        target = f"{self.mount}/{target_of(name, *answers)}"
        return Exchange(self.port, method, target, fields, body)

    def asked(self, name: str) -> list[Any]:
        """Return the requests that the app got: method, Grip-Last and headers with X-, body."""
        requests = request(self.port, f"{self.mount}/seen/{name}").json()
        ignored = ("Grip-Sig", "Grip-Feature", "Accept-Encoding")
        return [
            [method, {key: headers[key] for key in sorted(headers) if key not in ignored}, body]
            for method, headers, body in requests
        ]

    def publish(self, *items: dict[str, Any]) -> None:
        """Publish items.

        Raises:
            Refused: they are malformed.
        """
        answer = request(
            self.publish_port,
            "/publish/",
            method="POST",
            body=json.dumps({"items": items}).encode(),
            headers={"Content-Type": "application/json"},
        )
        if answer.status == 400:
            raise Refused
        assert (answer.status, answer.text) == (200, "Published\n"), answer.text

    def hold(self, name: str, *answers: Answer, channel: str = "", **more: Any) -> Exchange:
        """Ask for a stream, and wait until it is held: until it gets what is published."""
        exchange = self.ask(name, *answers, **more)
        probe = {"channel": channel or name, "formats": {"http-stream": {"content": PROBE}}}
        for _ in range(20):
            self.publish(probe)
            if exchange.has(PROBE, _STEP):
                break
        return exchange

    def settle(self, channel: str) -> Exchange:
        """Hold a stream on a channel, and wait until Pushpin has asked for what it had missed.

        About a second after the first request on a channel is held, Pushpin asks the app of all
        requests that have a link or a prev-id. Those that are held later are not concerned.
        """
        later: Answer = ["200 OK", [["Grip-Hold", "stream"], ["Grip-Channel", channel]], "settled"]
        link = ["Grip-Link", f"<{target_of('later-' + channel, later)}>; rel=next; timeout=2"]
        headers = [["Grip-Hold", "stream"], ["Grip-Channel", channel], link]
        keeper = self.ask(f"keeper-{channel}", ["200 OK", headers, ""])
        assert keeper.has("settled", 20)
        return keeper

    def publish_until_it_ends(self, exchange: Exchange, item: dict[str, Any]) -> dict[str, Any]:
        """Publish an item until a response ends, each time with another identifier.

        Returns:
            The last item.
        """
        for number in range(20):
            sent = {**item, "no-seq": True}
            if "id" in item:
                sent["id"] = f"{item['id']}-{number}"
            self.publish(sent)
            if exchange.ends(_STEP):
                break
        return sent


PROBE = "(probe)"


def target_of(name: str, *answers: Answer) -> str:
    """Return the path and the query string of a request that gets these answers."""
    return f"{name}?" + "&".join(f"a={quote(json.dumps(answer))}" for answer in answers)


class OwnSite(Site):
    """This server behind nginx."""

    def __init__(self, group: ProcessGroup) -> None:
        find("nginx")
        port = free_port()
        options = ("--push", "--push-bind", f"127.0.0.1:{port}", "--threads", "20")
        self.server = AppServer(group, APP, *options)
        nginx = Nginx(group, self.server)
        super().__init__(nginx.port, "/unbuffered", port)


class PushpinSite(Site):
    """Pushpin as a proxy, in front of this server without ``--push``, over HTTP."""

    _CONFIG = """
[global]
include={folder}/internal.conf
rundir={folder}/run
ipc_prefix=pushpin-
port_offset=0
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port={port}
logdir={folder}/log
log_level=2
client_buffer_size=16384
client_maxconn=500
[proxy]
routesfile={folder}/routes
sig_iss=pushpin
sig_key=changeme
[handler]
push_in_http_addr=127.0.0.1
push_in_http_port={publish_port}
message_rate=2500
message_hwm=25000
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
"""

    def __init__(self, group: ProcessGroup) -> None:
        program = find("pushpin")
        app = group.start(
            [
                *(str(command(group)), "--chdir", str(APPS), "--http", "127.0.0.1:0"),
                *("--threads", "20", APP),
            ],
            name="app",
        )
        log = app.wait_for_log("serving HTTP on")
        found = re.search(r"serving HTTP on http://127\.0\.0\.1:(\d+)/", log)
        assert found is not None
        super().__init__(free_port(), "", free_port())
        folder = group.folder / "pushpin"
        for name in ("run", "log"):
            (folder / name).mkdir(parents=True)
        # Debian's Pushpin uses a zurl that the system runs. Here Pushpin starts its own.
        internal = Path("/usr/lib/pushpin/internal.conf").read_text()
        internal = internal.replace("ipc:///var/run/zurl/", "ipc://{rundir}/{ipc_prefix}")
        (folder / "internal.conf").write_text(internal)
        (folder / "routes").write_text(f"* 127.0.0.1:{found[1]}\n")
        config = self._CONFIG.format(folder=folder, port=self.port, publish_port=self.publish_port)
        (folder / "pushpin.conf").write_text(config)
        process = group.start([program, f"--config={folder}/pushpin.conf"], name="pushpin")
        wait_until(lambda: self._answers(process), "Pushpin", log=process.log)
        self.settle("warm").close()

    def _answers(self, process: Process) -> bool:
        """Return whether all its processes have found each other."""
        assert process.running, process.log()
        instructed = target_of("warm", ["200 OK", [["Grip-Channel", "warm"]], "warm"])
        try:
            return (
                request(self.port, f"/{instructed}").status == 200
                and request(self.publish_port, "/").status == 200
            )
        except OSError:
            return False
