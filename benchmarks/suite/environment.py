"""The benchmark's own environments: virtual environments, built programs, and their versions.

They are in a cache folder and are kept between runs. What cannot be installed is recorded with the
reason, and its rows are reported as absent.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from suite import front
from suite.peers import Peer

ROOT = Path(__file__).resolve().parents[2]
SERVED = Path(__file__).parent / "served"
FRAMEWORKS = ["flask", "django"]
# What the servers are versions of, and what the table of versions shows.
SHOWN = ["vsgi-fcgi", "gevent", "flask", "werkzeug", "django", "uwsgi", "flup", "flipflop"]
SHOWN += ["gunicorn", "waitress", "cheroot", "bjoern", "granian"]
SCHEMA = """
create table note (id integer primary key, title varchar(80) not null);
insert into note (title) values ('one'), ('two'), ('three'), ('four'), ('five'), ('six'),
    ('seven'), ('eight'), ('nine'), ('<ten>'), ('eleven');
"""


def default_cache() -> Path:
    """Return the folder that is used without ``--cache``."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "vsgi-fcgi-peers")


@dataclass
class Environment:
    """Everything that is installed for the benchmark.

    Attributes:
        folder: the cache folder.
        here: use the running interpreter for everything, and install nothing.
        absent: the reason why a requirement is not there.
        versions: the version of each part.
    """

    folder: Path
    here: bool = False
    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def venv(self, name: str) -> Path:
        """Return the folder of a virtual environment."""
        return Path(sys.prefix) if self.here else self.folder / name

    def python(self, name: str) -> Path:
        """Return the interpreter of a virtual environment."""
        return Path(sys.executable) if self.here else self.venv(name) / "bin" / "python"

    @property
    def built(self) -> Path:
        """The folder of the built programs."""
        return self.folder / "built"

    @property
    def database(self) -> Path:
        """The SQLite database of the Django project."""
        return self.folder / "notes.sqlite3"

    def install(self, peers: Sequence[Peer], before: str | None) -> None:
        """Install what the peers need, and record what could not be installed."""
        self.built.mkdir(parents=True, exist_ok=True)
        self.read_absent()
        for name in sorted({peer.environment for peer in peers} - {"built"} | {"charts"}):
            if not self.python(name).exists():
                say(f"creating the environment {name}")
                run(sys.executable, "-m", "venv", str(self.venv(name)))
        say("installing matplotlib (charts)")
        if error := self.pip("charts", "matplotlib"):
            say(f"    not installed: {error}")
        pairs = sorted({(peer.environment, peer.requirement) for peer in peers})
        for environment, requirement in pairs:
            say(f"installing {requirement} ({environment})")
            key = f"{environment}:{requirement}"
            if error := self.install_one(environment, requirement, before):
                self.absent[key] = error
                say(f"    not installed: {error}")
            else:
                self.absent.pop(key, None)
            self.absent_file.write_text(json.dumps(self.absent, indent=1))

    @property
    def absent_file(self) -> Path:
        """Where it is recorded what could not be installed."""
        return self.folder / "absent.json"

    def read_absent(self) -> None:
        """Read what could not be installed earlier."""
        if self.absent_file.exists() and not self.here:
            self.absent = json.loads(self.absent_file.read_text())

    def install_one(self, environment: str, requirement: str, before: str | None) -> str:
        """Install one requirement; return the reason if that failed."""
        if requirement == "libfcgi":
            return self.build(
                "cc", "-O2", "-o", "responder-c", "responder.c", "-lfcgi", "-lpthread"
            )
        if requirement == "go":
            return self.build("go", "build", "-o", "responder-go", "responder.go")
        if requirement != "vsgi-fcgi":
            return self.pip(environment, requirement, *FRAMEWORKS)
        if environment == "before" and not before:
            return "an earlier version is only measured with --before"
        source = f"git+file://{ROOT}@{before}" if environment == "before" else str(ROOT)
        pure = {} if environment == "compiled" else {"VSGI_FCGI_PURE": "1"}
        # The first command builds the package, the second one finds it and installs the rest.
        error = self.pip(environment, "--force-reinstall", "--no-deps", source, env=pure)
        error = error or self.pip(environment, requirement, *FRAMEWORKS)
        wanted = "compiled" if environment == "compiled" else ""
        if not error and wanted not in self.described(environment):
            return "the package was installed without compiled modules"
        return error

    def pip(self, environment: str, *words: str, env: dict[str, str] | None = None) -> str:
        """Install with pip, with the same versions of the frameworks everywhere."""
        command = [str(self.python(environment)), "-m", "pip", "install", "--quiet"]
        return run(*command, "--disable-pip-version-check", *words, env=env)

    def build(self, program: str, *words: str) -> str:
        """Build a program of ``served/``."""
        if shutil.which(program) is None:
            return f"{program} is not installed"
        at = words.index("-o") + 1
        command = [program, *words[:at], str(self.built / words[at]), *words[at + 1 :]]
        return run(*command, cwd=SERVED)

    def described(self, environment: str) -> str:
        """Return what ``vsgi-fcgi --version`` prints."""
        command = [str(self.python(environment).with_name("vsgi-fcgi")), "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def inspect(self, peers: Sequence[Peer]) -> None:
        """Read what is absent and all versions, and create the database."""
        self.read_absent()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.database.exists():
            with sqlite3.connect(self.database) as connection:
                connection.executescript(SCHEMA)
        self.versions = {"Python": platform.python_version(), "nginx": front.version() or "absent"}
        names = (peer.environment for peer in peers if peer.environment != "built")
        # With --here, all of them have the same Python.
        for python, name in {self.python(name): name for name in names}.items():
            if python.exists():
                self.versions |= self.versions_in(name)
        for program, command in PROGRAMS.items():
            if any(peer.requirement == program for peer in peers) and shutil.which(command[0]):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                version = done.stdout.strip().removeprefix("go version ")
                self.versions[program] = version or "unknown"

    def versions_in(self, name: str) -> dict[str, str]:
        """Return the versions of what is installed in a virtual environment."""
        command = [str(self.python(name)), "-m", "pip", "list", "--format=json"]
        command += ["--disable-pip-version-check"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = {item["name"].lower(): item["version"] for item in json.loads(done.stdout or "[]")}
        if described := self.described(name) if "vsgi-fcgi" in found else "":
            found[f"vsgi-fcgi ({name})"] = described.removeprefix("vsgi-fcgi ")
            del found["vsgi-fcgi"]
        return {key: value for key, value in found.items() if key.partition(" ")[0] in SHOWN}

    def why_absent(self, peer: Peer) -> str:
        """Return the reason why a server cannot be measured, or ""."""
        if not self.here:
            place = self.built if peer.environment == "built" else self.python(peer.environment)
            missing = "" if place.exists() else "not installed"
            return self.absent.get(f"{peer.environment}:{peer.requirement}", missing)
        if peer.environment in ("pure", "before"):
            return "the running interpreter has one installation"
        module = peer.requirement.replace("-", "_")
        done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
        return "not installed" if done.returncode else ""

    def command(self, peer: Peer, module: str, threads: int) -> list[str]:
        """Return the command line of a server; ``{socket}`` remains."""
        values = {
            "{bin}": str(self.python(peer.environment).parent),
            "{venv}": str(self.venv(peer.environment)),
            "{built}": str(self.built),
            "{app}": f"{module}:application",
            "{module}": module,
            "{threads}": str(threads),
        }
        words = peer.command.split()
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        return words

    def shown(self, peer: Peer) -> str:
        """Return the command line of a server as a person would write it."""
        command = peer.command.replace(" --virtualenv {venv}", "")
        names = {"{bin}/": "", "{built}/": "", "{app}": "app:application", "{module}": "app"}
        for name, value in (names | {"{socket}": "SOCKET", "{threads}": "8"}).items():
            command = command.replace(name, value)
        return command

    def variables(self) -> dict[str, str]:
        """Return the environment variables of a server."""
        return os.environ | {"PYTHONPATH": str(SERVED), "SUITE_DATABASE": str(self.database)}


PROGRAMS = {
    "libfcgi": ["dpkg-query", "-W", "-f=${Version}", "libfcgi-dev"],
    "go": ["go", "version"],
}


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command, and return the last line that says why it failed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        return ""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    return (errors or lines or ["failed without a message"])[0][:200]


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def machine() -> dict[str, str]:
    """Describe the machine."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]}"
        f" {platform.libc_ver()[1]}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
