"""Replace servers one after the other under load, and record the result of each request."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

import gevent

from support.front_ends.servers import APPS, EXAMPLES, command, find
from support.processes import Process, ProcessGroup, free_port, wait_until
from vsgi_fcgi.client import FastCGIClient
from vsgi_fcgi.exceptions import UpstreamError

_NOISE = random.Random(1).randbytes(200_000)

FRONTS = ("client", "gateway", "relay", "relays", "haproxy", "nginx", "nginx-restart", "nginx-two")
"""Who asks: `relay` stands before servers that are replaced, `relays` are replaced themselves.

A server and its successor run at the same time. For `nginx-restart` one ends before the next one
starts, while the listener stays open as under systemd. For `nginx-two` there are two servers with
a socket each, and no listener stays open.
"""

_NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path temp; fastcgi_temp_path temp; proxy_temp_path temp;
    scgi_temp_path temp; uwsgi_temp_path temp;
    client_max_body_size 10m;
    keepalive_requests 1000000;
    upstream app {{ {upstream} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $fastcgi_script_name;
            fastcgi_keep_conn {keep};
            fastcgi_pass app;
        }}
    }}
}}
"""


_KEPT = "server unix:{0}/app.sock; keepalive 16; keepalive_requests 1000000;"
_TWO = "server unix:{0}/first.sock max_fails=0; server unix:{0}/second.sock max_fails=0;"


class Restarts:
    """Asks without a pause, each request a POST of its own, while servers are replaced.

    Args:
        group: the group of the processes.
        front: one of `FRONTS`.
        clients: how many ask at a time.
        largest: bytes of the largest body; as many are of one magnitude as of another.

    Attributes:
        counts: requests by what became of them.
        statuses: exit statuses of the servers that were stopped.
        run: how often the app ran for each request.
        failed: requests without a right answer.
    """

    def __init__(
        self, group: ProcessGroup, front: str, clients: int = 8, largest: int = 100_000
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.statuses: list[int] = []
        self.failed: list[str] = []
        self.answered: list[str] = []
        self._group = group
        self._front = front
        self._clients = clients
        self._largest = largest
        self._journal = group.folder / "journal"
        self._environ = {"JOURNAL": str(self._journal)}
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._chance = random.Random(1)
        self._end = False
        self._listener = self._listen("app.sock")
        self._front_listener = self._listen("front.sock")

    def _listen(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._group.folder / name))
        listener.listen(1024)
        return listener

    # Servers.

    def _server(self) -> Process:
        argv = [str(command(self._group)), "--chdir", str(APPS), "--threads", "2", "apps.once:app"]
        return self._begin(argv, self._listener)

    def _server_at(self, name: str) -> Process:
        argv = [str(command(self._group)), "--chdir", str(APPS), "--threads", "2", "apps.once:app"]
        argv += ["--socket", str(self._group.folder / name)]
        return self._begin(argv, None)

    def _relay(self) -> Process:
        upstream = f"unix:{self._group.folder}/app.sock"
        argv = [str(command(self._group)), "relay", "--upstream", upstream]
        return self._begin(argv, self._front_listener)

    def _begin(self, argv: list[str], listener: socket.socket | None) -> Process:
        name = f"process-{next(self._names)}"
        process = self._group.start(argv, name=name, env=self._environ, stdin=listener)
        process.wait_for_log("listening on", 20)
        return process

    def _start_front(self) -> Callable[[], None]:
        """Start what the requests go through, and return what a client does."""
        folder = self._group.folder
        if self._front in ("client", "relay", "relays"):
            name = "app.sock" if self._front == "client" else "front.sock"
            if self._front == "relay":
                self._relay()
            return lambda: self._ask_fastcgi(f"unix:{folder}/{name}")
        port = free_port()
        env = dict(self._environ)
        if self._front == "gateway":
            argv = [str(command(self._group)), "gateway", "--upstream", f"unix:{folder}/app.sock"]
            argv += ["--http", f"127.0.0.1:{port}"]
        elif self._front == "haproxy":
            argv = [find("haproxy"), "-db", "-f", str(EXAMPLES / "haproxy.cfg")]
            env |= {"PORT": str(port), "APP_SOCKET": str(folder / "app.sock")}
        else:
            (folder / "temp").mkdir()
            conf = folder / "nginx.conf"
            two = self._front == "nginx-two"
            upstream = (_TWO if two else _KEPT).format(folder)
            keep = "off" if two else "on"
            conf.write_text(_NGINX.format(upstream=upstream, keep=keep, port=port))
            argv = [find("nginx"), "-p", str(folder), "-c", str(conf), "-e", "stderr"]
            if os.geteuid() == 0:
                argv += ["-g", "user root;"]
        self._group.start(argv, name="front", env=env)

        def listens() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, "the front end")
        return lambda: self._ask_http(port)

    def run(self, restarts: int, every: float) -> None:
        """Replace the servers so often, under load.

        Args:
            restarts: how often.
            every: seconds between a start and the stop of the one before.
        """
        replaced = self._relay if self._front == "relays" else self._server
        if self._front == "relays":
            self._server()
        if self._front == "nginx-two":
            pair = [(name, self._server_at(name)) for name in ("first.sock", "second.sock")]
            turns = deque(pair)
        else:
            current = replaced()
        asking = threading.Thread(target=self._start_front())
        asking.start()
        try:
            for _ in range(restarts):
                if self._front == "nginx-two":
                    name, oldest = turns.popleft()
                    self.statuses.append(oldest.stop(within=40))
                    turns.append((name, self._server_at(name)))
                    time.sleep(every)
                elif self._front == "nginx-restart":
                    time.sleep(every)
                    self.statuses.append(current.stop(within=40))
                    current = replaced()
                else:
                    following = replaced()
                    time.sleep(every)
                    self.statuses.append(current.stop(within=40))
                    current = following
        finally:
            self._end = True
            asking.join(30)
            self._listener.close()
            self._front_listener.close()
        assert not asking.is_alive()

    @property
    def runs(self) -> Counter[str]:
        """How often the app ran for each request."""
        return Counter(self._journal.read_text().split())

    # Clients.

    def _next(self) -> tuple[str, bytes]:
        size = int(self._largest ** self._chance.random())
        return f"/{next(self._numbers)}", _NOISE[:size]

    def _note(self, path: str, body: bytes, status: int, answer: bytes) -> None:
        right = answer == hashlib.sha1(body).hexdigest().encode()
        what = f"{status}" if status != 200 or right else "a wrong answer"
        self.counts[what] += 1
        (self.answered if what == "200" else self.failed).append(path)

    def _fail(self, path: str, error: Exception) -> None:
        self.counts[f"{type(error).__name__}: {error}"[-120:]] += 1
        self.failed.append(path)

    def _ask_fastcgi(self, uri: str) -> None:
        with FastCGIClient(uri) as client:

            def ask() -> None:
                while not self._end:
                    path, body = self._next()
                    try:
                        response = client.request("POST", path, body=body)
                        self._note(path, body, response.status, response.read())
                    except UpstreamError as error:
                        self._fail(path, error)

            gevent.joinall([gevent.spawn(ask) for _ in range(self._clients)], raise_error=True)
        gevent.get_hub().destroy(destroy_loop=True)

    def _ask_http(self, port: int) -> None:
        def ask() -> None:
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            while not self._end:
                path, body = self._next()
                try:
                    connection.request("POST", path, body)
                    response = connection.getresponse()
                    self._note(path, body, response.status, response.read())
                except (OSError, HTTPException) as error:
                    connection.close()
                    self._fail(path, error)
            connection.close()

        threads = [threading.Thread(target=ask) for _ in range(self._clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
