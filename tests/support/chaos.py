"""Everything asks a supervised server at once, while its processes and its machine fail.

What fails is real: processes are killed and stopped, a disk is full, descriptors run out, and the
clock jumps. The disk is a small tmpfs that only the server uses, and the clock is that of the
server and the relay alone (libfaketime).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import gevent
from apps.news import event

from support.clock import Clock, find_library
from support.front_ends.more_servers import LighttpdExternal
from support.front_ends.servers import AppServer, HAProxy, Nginx
from support.http import request
from support.processes import ProcessGroup, open_files, wait_until
from support.relay_server import RelayServer
from support.soak import LARGEST, Asked, Soak, WebClient
from support.streams import News, Subscribers
from vsgi_fcgi.client import FastCGIClient

PATIENCE = 30.0
"""Seconds after which a request hangs. Nothing that is done here takes more than a few."""

SPOOL_SIZE = 64 << 20
"""Bytes of the disk for temporary files."""

PROCESSES = 2

MAX_GROWTH = 16 << 20
"""Bytes of free memory that the C library may keep after large requests."""

NEVER_LOGGED = ("a bug in the server", "internal error", "ContractBroken", "AssertionError")

_OPTIONS = (
    *("--processes", str(PROCESSES), "--threads", "8", "--push-bind", "127.0.0.1:0"),
    *("--push-stop-spread", "0.5", "--graceful-timeout", "10"),
    # So little memory that bodies and responses use the disk.
    *("--body-memory-bytes", "20000", "--output-memory-bytes", "16384", "--output-wait", "0.005"),
)


class _Around(ProcessGroup):
    """A group whose processes have more variables in their environment."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        super().__init__(folder)
        self._env = env

    def environ(self, **more: str) -> dict[str, str]:
        return super().environ(**self._env, **more)


@dataclass
class Action:
    """Something that was done to the server.

    Attributes:
        name: the method of `Chaos`.
        began: when, by `time.monotonic`.
        ended: the same; infinite while it goes on.
        excuses: why a request may fail that was there meanwhile: the beginning of `Asked.what`,
            perhaps after the way that the request took.
    """

    name: str
    began: float
    excuses: tuple[str, ...]
    ended: float = float("inf")


@dataclass
class Second:
    """What happened in a second of the run."""

    at: float
    answered: int
    p99: float
    failed: int
    events: int
    memory: dict[int, int] = field(default_factory=dict)


class Site:
    """The server, three web servers and a relay.

    Args:
        folder: where everything is.
        log: called with what cannot be done here.

    Attributes:
        spool: the folder for temporary files of the server and the relay.
        mounted: whether it is a disk of its own.
        clock: the clock of the server and the relay; None without libfaketime.
    """

    def __init__(self, folder: Path, log: Callable[[str], object]) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self._start(folder, log)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, folder: Path, log: Callable[[str], object]) -> None:
        enter = self._stack.enter_context
        self.news = News(folder / "news")
        env = {"NEWS": str(self.news.path), "TMPDIR": str(folder / "spool")}
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.mounted = self._mount()
        if not self.mounted:
            log("no tmpfs can be mounted here: the disk does not fill up")
        self.clock: Clock | None = None
        if find_library() is None:
            log("libfaketime is not installed: the clock does not move")
        else:
            self.clock = Clock(folder / "clock", delay=1)
            env |= self.clock.environ
        group = enter(_Around(folder, env))
        self.server = AppServer(group, "apps.chaos:app", *_OPTIONS)
        self.pid = self.server.pid
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.server.process.log())
        assert found is not None
        self.push_port = int(found[1])
        wait_until(lambda: self.log().count("listening on fcgi://") == PROCESSES, "all processes")
        (folder / "relay").mkdir()
        self.relay = RelayServer(
            enter(_Around(folder / "relay", env)), self.server, "--upstream-idle-timeout", "1"
        )
        fronts = enter(ProcessGroup(folder))
        self.web_servers = {
            "nginx": Nginx(fronts, self.server),
            "haproxy": HAProxy(fronts, self.server),
            "lighttpd": LighttpdExternal(fronts, self.server),
        }
        self._fronts = fronts

    def _mount(self) -> bool:
        argv = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_SIZE}", "tmpfs", str(self.spool)]
        with contextlib.suppress(OSError):
            if subprocess.run(argv, capture_output=True).returncode == 0:
                self._stack.callback(subprocess.run, ["umount", str(self.spool)], check=True)
                return True
        return False

    def log(self) -> str:
        """What the server has logged."""
        return self.server.process.log()

    def workers(self) -> list[int]:
        """The processes that the supervisor has, the oldest first."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def spooled(self) -> int:
        """Bytes in temporary files; they have no names, so only the disk knows."""
        disk = os.statvfs(self.spool)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    def check(self) -> None:
        """Check that all web servers still run."""
        for name, web_server in self.web_servers.items():
            assert web_server.process.running, f"{name} has ended: {web_server.error_log()[-2000:]}"

    def stop_fronts(self) -> None:
        """End the web servers, and with them all connections that they keep."""
        self._fronts.close()

    def close(self) -> None:
        """End everything, and check that nothing is left."""
        self._stack.close()
        for pid in self.pid, self.relay.process.pid:
            for path in Path("/dev/shm").glob(f"*faketime_*_{pid}"):
                path.unlink()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Bytes of resident memory; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return 0


class Load:
    """Requests of all kinds by all ways, in a thread, until it is stopped.

    Args:
        site: what is asked.
        subscribers: those whose events are counted.
        seed: of sizes, kinds and aborts.
        clients: how many requests each way has at a time.

    Attributes:
        seconds: what happened in each second.
        failures: requests that have failed.
        kinds: requests by their kind.
        ways: requests by what they went through.
        counts: requests by what became of them.
    """

    def __init__(
        self, site: Site, subscribers: Sequence[Subscribers], seed: int, clients: int
    ) -> None:
        self.seconds: list[Second] = []
        self.failures: list[tuple[str, Asked]] = []
        self.kinds: Counter[str] = Counter()
        self.ways: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.clients = clients
        self._site = site
        self._subscribers = subscribers
        self._seed = seed
        self._end = False
        self._error: BaseException | None = None
        self._times: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end = True
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive(), "the load does not end"
        if exc_info[0] is None:
            self.check()

    @property
    def asked(self) -> int:
        """How many requests have ended."""
        return self.counts.total()

    def check(self) -> None:
        """Raise what the load has raised."""
        if self._error is not None:
            raise self._error

    def wait_for_more(self, count: int = 100) -> None:
        """Wait until so many more requests were answered."""
        before = self.counts["right"]

        def more() -> bool:
            self.check()
            self._site.check()
            return self.counts["right"] >= before + count

        wait_until(more, f"{count} more answers", PATIENCE, log=self._site.log)

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                greenlets = [gevent.spawn(self._sample)]
                for soak in self._soaks(stack):
                    asks = functools.partial(
                        soak.run, greenlets=self.clients, until=lambda: self._end
                    )
                    greenlets.append(gevent.spawn(asks))
                try:
                    gevent.joinall(greenlets, raise_error=True)
                finally:
                    gevent.killall(greenlets)
        except BaseException as error:
            self._error = error
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    def _soaks(self, stack: contextlib.ExitStack) -> Iterator[Soak]:
        site = self._site
        ways: dict[str, FastCGIClient | WebClient] = {
            "client": stack.enter_context(FastCGIClient(f"unix:{site.server.socket}")),
            "relay": stack.enter_context(FastCGIClient(f"unix:{site.relay.socket}")),
        }
        for name, web_server in site.web_servers.items():
            ways[name] = stack.enter_context(contextlib.closing(WebClient(web_server.port)))
        alone = WebClient(site.web_servers["haproxy"].port, "/alone")
        ways["haproxy, alone"] = stack.enter_context(contextlib.closing(alone))
        for number, (way, client) in enumerate(ways.items()):
            yield Soak(
                client,
                self._seed + number,
                aborts=0.03,
                failures=True,
                small=0.9,
                polls=0.03,
                # HAProxy 2.6 answers 500 to some bodies of more than its buffer. 2.6.12 ends with
                # "FATAL: bug condition c_empty(ic)" at many large responses on a connection that
                # requests share. Its example gives them connections of their own.
                largest=8000 if way == "haproxy" else LARGEST,
                largest_body=3000 if "haproxy" in way else LARGEST,
                first=number << 32,
                patience=PATIENCE,
                note=functools.partial(self._note, way),
            )

    def _note(self, way: str, asked: Asked) -> None:
        self.ways[way] += 1
        self.kinds[asked.kind] += 1
        if asked.what in ("right", "aborted"):
            self.counts[asked.what] += 1
        else:
            self.counts["failed"] += 1
            self.failures.append((way, asked))
        if asked.kind != "held":
            self._times.append(asked.ended - asked.began)

    def _sample(self) -> None:
        before, failed, events = 0, 0, self._events()
        while not self._end:
            gevent.sleep(1)
            times, self._times = sorted(self._times), []
            pids = [self._site.pid, self._site.relay.process.pid, *self._site.workers()]
            second = Second(
                time.monotonic(),
                self.counts["right"] - before,
                times[len(times) * 99 // 100] if times else 0.0,
                self.counts["failed"] - failed,
                self._events() - events,
                {pid: resident(pid) for pid in pids},
            )
            before += second.answered
            failed += second.failed
            events += second.events
            self.seconds.append(second)

    def _events(self) -> int:
        return sum(len(each.ids) for group in self._subscribers for each in group.all)


class Publisher:
    """Publishes news, in turn over HTTP and by the app, until each is accepted."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join(2 * PATIENCE)

    def _run(self) -> None:
        while not self._end.wait(0.05):
            id = self._site.news.add()
            while not self.publish(id):
                self._end.wait(0.05)

    def publish(self, id: int) -> bool:
        """Publish an item, perhaps once more; each stream gets it once."""
        site = self._site
        try:
            if id % 2:
                return request(site.web_servers["nginx"].port, f"/publish?{id}").status == 200
            formats = {"http-stream": {"content": event(id)}}
            item = {"channel": "news", "id": str(id), "prev-id": str(id - 1), "formats": formats}
            body = json.dumps({"items": [item]}).encode()
            answer = request(site.push_port, "/publish/", method="POST", body=body)
            return answer.status == 200
        except (OSError, HTTPException):
            return False


class Chaos:
    """Does things to a site, one after the other.

    Args:
        site: the site.
        load: what goes on meanwhile.
        seed: of the order, and of the processes that are chosen.
        lasting: seconds for which a process is stopped, and a disk is full.

    Attributes:
        load: what goes on meanwhile.
        done: what was done.
    """

    def __init__(self, site: Site, load: Load, seed: int, lasting: float = 1.0) -> None:
        self.done: list[Action] = []
        self._site = site
        self.load = load
        self._chance = random.Random(seed)
        self._lasting = lasting
        actions = [self.abort, self.kill, self.reload, self.stop, self.descriptors]
        if site.mounted:
            actions.append(self.disk)
        if site.clock is not None:
            actions.append(self.move_clock)
        self.actions = tuple(actions)

    def rounds(self) -> Iterator[Callable[[], None]]:
        """Yield all actions in random order, again and again."""
        while True:
            yield from self._chance.sample(self.actions, len(self.actions))

    @contextlib.contextmanager
    def _doing(self, name: str, *excuses: str) -> Iterator[None]:
        action = Action(name, time.monotonic(), excuses)
        self.done.append(action)
        yield
        action.ended = time.monotonic()

    def _last(self) -> None:
        time.sleep(self._lasting * (0.5 + self._chance.random()))

    def abort(self) -> None:
        """Many clients leave at once: in uploads, and in responses that they have not read."""
        with self._doing("abort"), contextlib.ExitStack() as stack:
            for number in range(30):
                web_server = self._chance.choice([*self._site.web_servers.values()])
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", web_server.port)))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                length = "Content-Length: 2000\r\n\r\n" + "x" * 1000 if number % 2 else "\r\n"
                method = "PUT" if number % 2 else "GET"
                sock.sendall(f"{method} /1/1000000 HTTP/1.1\r\nHost: x\r\n{length}".encode())
            self.load.wait_for_more()

    def kill(self) -> None:
        """Kill a process."""
        wait_until(lambda: len(self._site.workers()) == PROCESSES, "all processes")
        pid = self._chance.choice(self._site.workers())
        with self._doing("kill", "50"):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")

    def reload(self) -> None:
        """Load the app again, in new processes."""
        wait_until(lambda: len(self._site.workers()) == PROCESSES, "all processes")
        before = set(self._site.workers())
        with self._doing("reload"):
            self._site.server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not before & set(self._site.workers()), "new processes", PATIENCE)

    def stop(self) -> None:
        """Stop a process, and let it continue."""
        fronts = [each.process.pid for each in self._site.web_servers.values()]
        others = [self._site.pid, self._site.relay.process.pid, *fronts]
        pid = self._chance.choice(self._site.workers() * 2 + others)
        with self._doing("stop"):
            os.kill(pid, signal.SIGSTOP)
            try:
                self._last()
            finally:
                os.kill(pid, signal.SIGCONT)

    def disk(self) -> None:
        """Fill the disk for temporary files."""
        path = self._site.spool / "full"
        # The relay cannot let one response of a shared connection wait, so it breaks it off.
        with self._doing("disk", "503", "relay 502"), path.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            self._last()
            path.unlink()

    def descriptors(self) -> None:
        """Let no process open another descriptor, while further connections arrive."""
        with self._doing("descriptors", "503"), contextlib.ExitStack() as stack:
            for pid in self._site.workers():
                # A process that is still starting cannot go on, and ends.
                stack.enter_context(contextlib.suppress(ProcessLookupError))
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                low = descriptors(pid) + 2
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (low, before[1]))
                stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, before)
            for _ in range(20):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(str(self._site.server.socket))
            self._last()

    def move_clock(self) -> None:
        """Move the clock by up to a day, forward or back."""
        with self._doing("move_clock"):
            assert self._site.clock is not None
            self._site.clock.move(self._chance.randint(-86400, 86400))
            self._last()

    def unexcused(self) -> list[tuple[str, Asked]]:
        """Requests that have failed though nothing that fails requests was done to them."""
        return [each for each in self.load.failures if not self._excuse(*each)]

    def _excuse(self, way: str, asked: Asked) -> Action | None:
        for action in self.done:
            meanwhile = asked.began <= action.ended and action.began <= asked.ended
            whats = asked.what, f"{way} {asked.what}"
            if meanwhile and any(what.startswith(action.excuses) for what in whats):
                return action
        return None

    def failed_by(self) -> list[tuple[Action, int]]:
        """How many requests each action has failed."""
        found = Counter(id(self._excuse(*each)) for each in self.load.failures)
        return [(action, found[id(action)]) for action in self.done if action.excuses]


@dataclass
class Report:
    """What a run has shown.

    Attributes:
        load: what was asked.
        chaos: what was done.
        published: how many events each subscriber has got.
        subscribers: how many there were.
        began: when, by `time.monotonic`.
        supervisor: the supervisor's process.
        relay: the relay's process.
    """

    load: Load
    chaos: Chaos
    published: int
    subscribers: int
    began: float
    supervisor: int
    relay: int

    def resident(self) -> dict[str, list[int]]:
        """Return the resident memory in bytes in each second; that of the largest worker."""
        found: dict[str, list[int]] = {"a worker": [], "the supervisor": [], "the relay": []}
        for second in self.load.seconds:
            memory = dict(second.memory)
            found["the supervisor"].append(memory.pop(self.supervisor))
            found["the relay"].append(memory.pop(self.relay))
            found["a worker"].append(max(memory.values(), default=0))
        return found

    def memory(self) -> dict[str, tuple[int, int]]:
        """Return the most resident memory in the second quarter and in the last quarter."""
        found = {}
        for name, values in self.resident().items():
            quarter = len(values) // 4
            found[name] = max(values[quarter : 2 * quarter]), max(values[-quarter:])
        return found


def run(
    folder: Path,
    *,
    seed: int,
    clients: int,
    go_on: Callable[[Chaos, int], bool],
    log: Callable[[str], object],
) -> Report:
    """Run everything, and check that nothing is wrong, lost or left.

    Args:
        folder: where everything is.
        seed: of sizes, kinds, aborts and actions.
        clients: how many requests each way has at a time.
        go_on: whether another action is due after so many of them.
        log: called with what cannot be done here.

    Raises:
        AssertionError: an invariant does not hold.
    """
    with contextlib.closing(Site(folder, log)) as site:
        before = {pid: descriptors(pid) for pid in (site.pid, site.relay.process.pid)}
        most = max(map(descriptors, site.workers()))
        empty = site.spooled()
        with contextlib.ExitStack() as stack:
            groups = [
                stack.enter_context(Subscribers(2, "127.0.0.1", each.port))
                for each in site.web_servers.values()
            ]
            began = time.monotonic()
            with Load(site, groups, seed, clients) as load:
                chaos = Chaos(site, load, seed)
                with Publisher(site) as publisher:
                    load.wait_for_more(1000)
                    for number, action in enumerate(chaos.rounds()):
                        if not go_on(chaos, number):
                            break
                        action()
                        load.wait_for_more()
                    # Everything has recovered.
                    load.wait_for_more(1000)
            last = site.news.add()
            wait_until(lambda: publisher.publish(last), "the last item")
            for group in groups:
                group.wait_for(last)
        unexcused = chaos.unexcused()
        assert not unexcused, (unexcused[:10], chaos.done)
        # More cannot have been there.
        there = clients * len(load.ways)
        assert all(count <= there for action, count in chaos.failed_by() if action.name == "kill")
        site.stop_fronts()
        wait_until(lambda: len(site.workers()) == PROCESSES, "the end of all others")
        before |= dict.fromkeys(site.workers(), most)
        wait_until(
            lambda: all(descriptors(pid) <= count for pid, count in before.items()),
            "the end of all connections",
            log=lambda: str([(count, open_files(pid)) for pid, count in before.items()]),
        )
        wait_until(lambda: not site.mounted or site.spooled() == empty, "the end of all files")
        assert site.relay.process.stop() == 0
        assert site.server.process.stop() == 0
        assert not site.server.socket.exists()
        assert not site.relay.socket.exists()
        assert not any(site.spool.iterdir())
        logs = site.log() + site.relay.process.log()
        assert not any(text in logs for text in NEVER_LOGGED), logs
    count = sum(len(group.all) for group in groups)
    report = Report(load, chaos, last, count, began, site.pid, site.relay.process.pid)
    growth = {name: after - before for name, (before, after) in report.memory().items()}
    assert all(each < MAX_GROWTH for each in growth.values()), growth
    return report
