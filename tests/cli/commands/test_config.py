"""Test ``vsgi-fcgi config``: its arguments, its output, and its errors.

``live/test_printed_config.py`` runs its output.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import complaint, run_command
from support.front_ends.printed import PARTS, PROGRAMS, around, check, server_command
from support.front_ends.servers import find
from support.settings import other_text, other_value

from vsgi_fcgi.cli import main
from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.cli.commands.config import command_words, make_files
from vsgi_fcgi.cli.settings.command import option_name
from vsgi_fcgi.cli.settings.command_line import parse
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.cli.settings.resolve import resolve
from vsgi_fcgi.front_ends.systemd import quoted

FOLDER = "/srv/mysite"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err.removeprefix("vsgi-fcgi: ").rstrip("\n")


def served(words: list[str]) -> Options:
    """What a printed command line tells the server."""
    assert words[0] == str(Path(sys.executable).with_name("vsgi-fcgi"))
    line = parse(words[1:])
    assert line.command is SERVE
    options: Options = resolve(line, {}).options
    return options


# The command line.


@pytest.mark.parametrize("name", SERVE.fields)
def test_whatever_is_said_is_said_to_the_server(name: str) -> None:
    text, value = other_text(name), other_value(name)
    if name == "bind":
        text, value = "unix:/run/app.sock", ("unix:/run/app.sock",)
    if name == "app":
        given = [text]
    elif SERVE.fields[name].default is False:
        given = [option_name(name), "app"]
    elif SERVE.fields[name].default is True:
        given = [option_name(name).replace("--", "--no-", 1), "app"]
    else:
        given = [option_name(name), text, "app"]
    configuration = resolve(parse(["config", "nginx", *given]), {})
    words = command_words(configuration, FOLDER)
    expected = replace(Options(app="app"), chdir=FOLDER)
    if name == "socket":
        expected = replace(expected, socket=(f"{FOLDER}/some:value",))
    elif name != "chdir":
        expected = replace(expected, **{name: value})
    assert resolve(parse(words), {}).options == expected


def test_values_that_are_easily_lost(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["nginx", "shop:create_app('it''s', \"é\")", "--script-name", "", "--no-debug"]
    words += ["--access-log", "-", '--access-log-format=-%(h)s "%(r)s" $x \\', "--umask", "027"]
    words += ["--switch-interval", "0.0000123", "--bind", "unix:/run/app.sock", "--chdir", "/a b"]
    text = printed(capsys, *words, "--bind", "127.0.0.1:9000")
    options = served(server_command(text))
    assert options.app == "shop:create_app('it''s', \"é\")"
    assert options.mount_point == ""
    assert (options.access_log, options.access_log_format) == ("-", '-%(h)s "%(r)s" $x \\')
    assert (options.umask, options.switch_interval, options.debug) == (0o27, 0.0000123, False)
    assert options.bind == ("unix:/run/app.sock", "127.0.0.1:9000")
    assert options.chdir == "/a b"


def test_the_environment_and_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service has none of these variables, but it can read the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text(
        'app = "shop.wsgi"\nthreads = 3\nscript-name = "/shop"\nhttp = "127.0.0.1:8000"\n'
        'bind = "unix:/run/shop.sock"\n[config]\nserver-name = "shop.test"\n'
    )
    monkeypatch.setenv("VSGI_FCGI_THREADS", "7")
    text = printed(capsys, "nginx", "--config", "site.toml")
    options = served(server_command(text))
    assert (options.app, options.threads, options.chdir) == ("shop.wsgi", 7, str(tmp_path))
    assert "--config site.toml" not in text
    assert "unix:/run/shop.sock" not in " ".join(server_command(text))
    assert "server unix:/run/shop.sock;" in text
    assert "(?<mount>/shop)" in text
    assert "server_name shop.test;" in text
    # What a file says of HTTP is for the server itself.
    assert "8000" not in text


def test_what_the_server_would_not_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would be in the configuration, and the server would know nothing of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text('[config]\nscript-name = "/shop"\n')
    assert refused(capsys, "nginx", "app", "-c", "site.toml") == (
        "script-name in site.toml is a setting of the server, which does not read the table config;"
        " write it above all tables"
    )


def test_ports_of_a_file_that_become_those_of_systemd(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "site.toml"
    path.write_text("port = 9000\nany = true\n")
    text = printed(capsys, "systemd", "app", "-c", str(path))
    assert "ListenStream=0.0.0.0:9000\n" in text
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert [str(item) for item in served(shlex.split(start)).addresses()] == ["systemd:"]


def test_a_pyproject_that_is_found_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server looks for one where it works, which is another folder here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.vsgi-fcgi]\nchdir = "src"\nthreads = 3\n[tool.vsgi-fcgi.config]\nname = "shop"\n'
    )
    text = printed(capsys, "apache", "app")
    assert "/run/shop.sock|" in text
    options = served(server_command(text))
    assert (options.chdir, options.threads) == (f"{tmp_path}/src", 3)


def test_what_is_relative_begins_where_the_server_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path)
    text = printed(capsys, "nginx", "app", "--chdir", "site", "--socket", "../app.sock")
    assert f"server unix:{tmp_path}/app.sock;" in text
    options = served(server_command(text))
    assert options.chdir == f"{tmp_path}/site"
    (address,) = options.addresses()
    assert os.path.normpath(str(address)) == f"{tmp_path}/app.sock"


@pytest.mark.parametrize(
    ("words", "group", "socket"),
    [
        ("nginx", "www-data", "/run/mysite.sock"),
        ("apache --name shop", "www-data", "/run/shop.sock"),
        ("haproxy", "haproxy", "/var/lib/haproxy/mysite.sock"),
        ("caddy", "caddy", "/run/mysite.sock"),
        ("h2o", "debian-h2o", "/run/mysite.sock"),
        ("nginx --socket-mode 0666", None, "/run/mysite.sock"),
        ("nginx --socket-group web", "web", "/run/mysite.sock"),
        ("nginx --standalone /srv", None, "/srv/mysite.sock"),
    ],
)
def test_who_may_connect(
    capsys: pytest.CaptureFixture[str], words: str, group: str | None, socket: str
) -> None:
    options = served(server_command(printed(capsys, *words.split(), "mysite.wsgi")))
    assert options.socket_group == group
    assert [str(item) for item in options.addresses()] == [socket]


@pytest.mark.parametrize(
    ("words", "server"),
    [
        ("-p 9000 -s /a.sock -b unix:/b.sock", "unix:/a.sock"),
        ("-b fd://3 -b unix:@a -b 192.0.2.1:9001 -p 9000", "127.0.0.1:9000"),
        ("-b systemd: -b [::]:9000", "[::1]:9000"),
        ("-A -p 9000 -6", "[::1]:9000"),
        ("-A -p 9000", "127.0.0.1:9000"),
    ],
)
def test_where_the_web_server_connects_to(
    capsys: pytest.CaptureFixture[str], words: str, server: str
) -> None:
    assert f"    server {server};\n" in printed(capsys, "nginx", "app", *words.split())


def test_what_starts_the_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The program that runs now, wherever it is started from, or the interpreter that has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", "/opt/python")
    assert server_command(printed(capsys, "nginx", "app"))[:3] == ["/opt/python", "-m", "vsgi_fcgi"]
    (tmp_path / "vsgi-fcgi").touch()
    monkeypatch.setattr(sys, "argv", ["./vsgi-fcgi"])
    assert server_command(printed(capsys, "nginx", "app"))[0] == f"{tmp_path}/vsgi-fcgi"


def test_systemd_makes_what_the_web_server_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that one prints becomes the units by the words that it says."""
    command = server_command(printed(capsys, "haproxy", "mysite.wsgi", "--script-name", "/shop"))
    text = printed(capsys, "systemd", *command[1:])
    assert "ListenStream=/var/lib/haproxy/mysite.sock\n" in text
    assert "SocketGroup=haproxy\n" in text
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    options = served(shlex.split(start))
    assert options.bind == ("systemd:",)
    assert (options.script_name, options.socket_group) == ("/shop", None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "",
            "the program to configure is missing: write apache, caddy, h2o, haproxy, lighttpd,",
        ),
        ("--threads 3", "the program to configure is missing: "),
        ("ngnix app", "'ngnix' is not a program that can be configured; did you mean nginx?"),
        ("NGINX app", "'NGINX' is not a program that can be configured; did you mean nginx?"),
        ("httpd app", "'httpd' is not a program that can be configured; did you mean apache?"),
        ("apache2 app", "'apache2' is not a program that can be configured; did you mean apache?"),
        ("iis app", "'iis' is not a program that can be configured; write apache, caddy, "),
        ("a.py:b", "'a.py:b' is not a program that can be configured; write apache, caddy, "),
        ("nginx", "the app is missing; see vsgi-fcgi config --help"),
        ("nginx app more", "more: unexpected argument"),
        (
            "--script-name /x nginx app",
            "PROGRAM must follow config directly: vsgi-fcgi config PROGRAM [OPTIONS] APP",
        ),
        ("nginx app --threads 0", "--threads is 0, but must be at least 1"),
        ("nginx a-b", "'a-b' is not a module"),
        ("nginx app --check-config", "--check-config concerns the server; leave out config"),
        ("nginx app --print-config", "--print-config concerns the server; leave out config"),
        (
            "caddy app --static /a=b",
            "--static is available for lighttpd and nginx, but not for Caddy; leave",
        ),
        ("nginx app --static a=b", "--static a=b: write /URL=DIR, as in /static=site/static"),
        ("nginx app --static /a", "--static /a: write /URL=DIR, as in /static=site/static"),
        ("nginx app --static /=/b", "--static =/b: the URL must be below the root"),
        ("nginx app --static /a$=/b", "--static /a$=/b: the URL must be below the root"),
        ("nginx app --static /a=/b;", "the path '/b;' cannot be configured"),
        ("nginx app --writable /a", "--writable is for systemd; leave it out"),
        ("systemd app --writable /a%b", "the path '/a%b' cannot be configured"),
        ("nginx app -f 3", "nginx cannot connect to fd 3, which is not an address"),
        ("lighttpd app -f 3", "lighttpd cannot connect to fd 3"),
        ("apache app -b systemd:web", "apache cannot connect to systemd:web"),
        ("nginx app -b unix:@app", "this web server cannot connect to @app; write unix:PATH or"),
        ("lighttpd app -b unix:@app", "this web server cannot connect to @app"),
        ("haproxy app -b unix:@app", "this web server cannot connect to @app"),
        ("apache app -b unix:@app", "this web server cannot connect to @app"),
        ("h2o app -b unix:@app", "this web server cannot connect to @app"),
        ("caddy app -p 0", "a random port cannot be configured; name one"),
        ("caddy app --http unix:/a", "--http unix:/a is not a TCP address with a port"),
        ("caddy app --http 127.0.0.1:0", "--http 127.0.0.1:0 is not a TCP address with a port"),
        ("nginx app --name a/b", "--name 'a/b' is not a valid name; use ASCII letters"),
        (
            "nginx app --server-name a;b",
            "--server-name 'a;b' is not a host name that can be configured",
        ),
        ("caddy app --server-name a.b:80", "--server-name 'a.b:80' is not a host name"),
        ("caddy app --server-name ::1", "--server-name '::1' is not a host name"),
        ("caddy app --http *:80", "'*' is not a host name that can be configured"),
        ("nginx app --script-name /a/../b", "--script-name '/a/../b' cannot be configured"),
        ("nginx app --script-name /a$b", "--script-name '/a$b' cannot be configured"),
        ("nginx app --script-name //a", "--script-name '//a' cannot be configured"),
        (
            "nginx app --sendfile x-sendfile",
            "--sendfile x-sendfile is not available for nginx; write",
        ),
        (
            "caddy app --sendfile x-sendfile",
            "--sendfile x-sendfile is not available for Caddy; leave",
        ),
        ("caddy app:{$HOME}", "'{$HOME}' does not name an app"),
        ("caddy app --log-format {$HOME}", "Caddy would replace a variable in '{$HOME}', even"),
        ("systemd app -f 3", "systemd opens its sockets itself, but fd 3 is already open"),
        ("systemd app -b localhost:9000", "systemd listens only on IP addresses, and localhost is"),
        (
            "systemd app --static /a=b",
            "--static needs --http; without it, a web server must serve the files: give --static",
        ),
        ("systemd app --standalone .", "--standalone is for web servers and not for systemd"),
        ("systemd app --user a=b", "'a=b' is not a valid name of a user or group for systemd"),
    ],
)
def test_what_cannot_be_configured(
    capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    assert refused(capsys, *words.split()).startswith(sentence)


@pytest.mark.parametrize("program", [*PROGRAMS, "systemd"])
@pytest.mark.parametrize(
    "words",
    [
        ["--socket", '/run/a"b.sock'],
        ["--socket", "/run/a b.sock"],
        ["--socket", "/run/a\n.sock"],
        ["--chdir", "/srv\n}"],
        ["--log-format", "\u2028x"],
        ["--name", "a\nb"],
    ],
    ids=repr,
)
def test_nothing_breaks_out_of_its_place(
    capsys: pytest.CaptureFixture[str], program: str, words: list[str]
) -> None:
    assert "cannot be configured" in refused(capsys, program, "app", *words).replace(
        "is not a valid name;", "cannot be configured:"
    )


def test_lighttpd_parts_a_command_at_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lighttpd", "app", "--log-format"]
    for odd in ("%(name)s %(message)s", 'a"b', "a\\b"):
        assert refused(capsys, *words, odd).startswith(f"lighttpd cannot have {odd!r} in a")
    text = printed(capsys, *words, "%(name)s$x'y", "--script-name", "")
    (path,) = re.findall(r'"bin-path" => "(.*)",', text)
    options = served(path.split(" "))
    assert (options.log_format, options.mount_point) == ("%(name)s$x'y", "")


@pytest.mark.process
def test_nginx_takes_no_long_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["nginx", "app", "--standalone", str(tmp_path), "--log-format"]
    path = tmp_path / "whole"
    path.write_text(printed(capsys, *words, "é" * 1800))
    check("nginx", path)
    sentence = "the command that starts the server is too long for a line of nginx's configuration;"
    assert refused(capsys, *words, "é" * 2000).startswith(sentence)


def test_a_module_that_is_called_config() -> None:
    line = parse(["config:app", "--threads", "3"])
    assert line.command is SERVE
    assert line.given == {"app": "config:app", "threads": 3}


@pytest.mark.process
def test_the_app_is_not_loaded(tmp_path: Path) -> None:
    output = run_command(tmp_path, "config", "nginx", "there.is.no.such:app", "-p", "9000")
    assert (output.status, output.err) == (0, "")


# The output, as its reader sees it.


@pytest.mark.parametrize(
    ("program", "versions"),
    [("nginx", "nginx 1.22 and 1.26;"), ("haproxy", "HAProxy 2.6.12 and 3.0;")],
)
def test_it_says_for_which_versions_it_is(
    capsys: pytest.CaptureFixture[str], program: str, versions: str
) -> None:
    text = printed(capsys, program, "mysite:app")
    assert f"tested with\n# {versions} an older version may not know every line" in text
    if program == "haproxy":
        assert "from 2.6.14 on" in text
        assert "From HAProxy 3.2 on, requests share connections" in text


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_web_server_takes_it(
    capsys: pytest.CaptureFixture[str], program: str, tmp_path: Path
) -> None:
    for number, words in enumerate(
        (
            "--socket /run/é.sock --script-name /a.b/c+d~e,f=g@h --http 127.0.0.1:8081",
            "--port 9000 --server-name a-b.example.org --name my-site_2",
            "--bind [::1]:9000 --http 127.0.0.1:8081 --http [::1]:8081",
            "--any --port 9000 --bind localhost:9001 --script-name /shop --server-name shop.test",
        )
    ):
        # Each other one is for what Debian has: a part, or for h2o the whole file.
        ours = number % 2 == 1
        part = ours and program in PARTS
        words += "" if ours else f" --standalone {tmp_path}"
        text = printed(capsys, program, "mysite.wsgi", *words.split())
        if ours and not part:
            # Folders and a user of Debian's, which need not be there.
            text, count = re.subn(r"/var/log/h2o|/run(?=/h2o.pid)", str(tmp_path), text)
            assert count == 3
            text = text.replace("user: debian-h2o", f"user: {pwd.getpwuid(os.geteuid()).pw_name}")
        if program == "nginx":
            # The check opens the sockets, and only root may open this one.
            text = re.sub(r"(?<=listen )(\[::\]:)?80\b", r"\g<1>8081", text)
        path = tmp_path / "whole"
        path.write_text(text)
        check(program, around(program, text, tmp_path) if part else path)


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        ("lighttpd", "/etc/lighttpd/conf-available/50-mysite.conf"),
        ("nginx --name shop", "/etc/nginx/sites-available/shop"),
        ("apache", "/etc/apache2/sites-available/mysite.conf"),
        ("haproxy", "/etc/haproxy/haproxy.cfg"),
        ("caddy", "/etc/caddy/Caddyfile"),
        ("h2o", "/etc/h2o/h2o.conf"),
        ("systemd", "/etc/systemd/system/mysite.socket /etc/systemd/system/mysite.service"),
        ("nginx --standalone /srv/a", "/srv/a/nginx.conf"),
    ],
)
def test_where_files_belong(words: str, paths: str) -> None:
    configuration = resolve(parse(["config", *words.split(), "mysite.wsgi"]), {})
    files = make_files(configuration)
    assert [file.path for file in files] == paths.split()
    assert files[0].path in files[0].text


@pytest.mark.process
def test_no_room_for_it(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        argv = [str(Path(sys.executable).with_name("vsgi-fcgi")), "config", "caddy", "app"]
        run = subprocess.run(
            argv, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, timeout=30, check=False
        )
    sentence = b"vsgi-fcgi: standard output cannot be written: No space left on device\n"
    assert (run.returncode, run.stderr) == (2, sentence)


def test_a_folder_that_is_gone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert refused(capsys, "nginx", "app") == (
        "the current folder does not exist any more; name the folder of the app with --chdir"
    )


@pytest.mark.process
def test_files(tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    words = ["config", "systemd", "mysite.wsgi", "--name", "shop", "--output", "units"]
    output = run_command(tmp_path, *words)
    assert (output.status, output.out) == (0, "units/shop.socket\nunits/shop.service\n")
    printed = run_command(tmp_path, *words[:-2]).out
    for path in units.iterdir():
        assert path.read_text() in printed
    (units / "shop.socket").unlink()
    assert complaint(tmp_path, *words) == "units/shop.service already exists; remove it first"
    assert [path.name for path in units.iterdir()] == ["shop.service"]
    assert complaint(tmp_path, *words[:-1], "nowhere") == (
        "--output: the folder nowhere does not exist; create it with mkdir -p nowhere"
    )
    # Where not even root can write.
    sentence = "/proc/self/shop.socket cannot be written: "
    assert complaint(tmp_path, *words[:-1], "/proc/self").startswith(sentence)


# systemd


def test_a_service_with_several_processes_can_be_reloaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The systemd of Debian 12 warns about this line; 253 knows it."""
    both = printed(capsys, "systemd", "app", "--processes", "4")
    assert "\nType=notify-reload\n" in both
    assert "--processes 4" in both
    assert "\nType=notify\n" in printed(capsys, "systemd", "app")


def _verify(folder: Path, level: str) -> str:
    """What systemd says of the units a.socket and a.service."""
    run = subprocess.run(
        [find("systemd-analyze"), "verify", "--man=no", "a.socket", "a.service"],
        cwd=folder,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": level, "SYSTEMD_LOG_TARGET": "console"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [
        ["app"],
        ["app", "--chdir", "/home/you/site", "--user", "you", "--group", "web", "--umask", "22"],
        ["shop:create_app('it''s; \"é\" 100% $HOME')", "--log-format", "%(asctime)s ${X}\\"],
        ["app", "--port", "9000", "--bind", "unix:@app", "--bind", "systemd:main", "-b", "/a.sock"],
        ["app", "--graceful-timeout", "300", "--socket-mode", "666", "--socket-user", "you"],
        ["app", "--writable", "/srv/a", "--writable", "/var/lib/b"],
    ],
    ids=lambda words: " ".join(words),
)
def test_systemd_takes_the_units(words: list[str], tmp_path: Path) -> None:
    output = run_command(tmp_path, "config", "systemd", *words, "--name", "a", "--output", ".")
    assert (output.status, output.err) == (0, "")
    assert [line for line in _verify(tmp_path, "notice").splitlines() if "a.s" in line] == []
    seen = _verify(tmp_path, "debug")
    (found,) = set(re.findall(r"^\s*Command Line: (.*vsgi.*)$", seen, re.MULTILINE))
    service = (tmp_path / "a.service").read_text()
    # systemd has read the intended values, except for variables, which it expands at the start.
    options = served([word.replace("\\$\\$", "$") for word in shlex.split(found)])
    assert options.app == words[0]
    assert options.log_format == (words[2] if words[1:2] == ["--log-format"] else "text")
    assert f"TimeoutStopSec={options.graceful_timeout + 10:g}\n" in service


def test_what_systemd_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "systemd", "app")
    for line in ("DynamicUser=yes", "ListenStream=/run/app.sock", "SocketGroup=www-data"):
        assert f"\n{line}\n" in text
    text = printed(
        capsys,
        *("systemd", "app", "--chdir", "/home/you/site", "--user", "you", "--umask", "022"),
        *("--port", "9000", "--bind", "systemd:main", "--backlog", "7", "--socket-mode", "0600"),
    )
    for line in (
        *("User=you", "UMask=0022", "ProtectHome=read-only", "ListenStream=127.0.0.1:9000"),
        *("FileDescriptorName=main", "Backlog=7", "SocketMode=0600"),
    ):
        assert f"\n{line}\n" in text
    assert "DynamicUser" not in text
    # IPv6 may not be there, which the server would take and systemd would not.
    assert text.count("ListenStream=") == 1
    (start,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert not {"--user", "--umask", "--port", "--backlog", "--socket-mode"} & set(start.split())


def test_an_app_that_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """An SQLite database and uploads need a user that owns them from one start to the next."""
    words = ["systemd", "mysite.wsgi", "--chdir", "/home/you/mysite"]
    text = printed(capsys, *words, "--writable", "data", "--writable", "/srv/media")
    for line in (
        *("User=mysite", "Group=www-data", "UMask=0027", "ProtectHome=read-only"),
        *("ReadWritePaths=/home/you/mysite/data", "ReadWritePaths=/srv/media"),
        "#     useradd --system --home-dir /var/lib/mysite --shell /usr/sbin/nologin mysite",
        "#     mkdir -p /srv/media && chown -R mysite:www-data /srv/media",
    ):
        assert f"\n{line}\n" in text
    assert "DynamicUser" not in text
    assert "--writable" not in text
    own = printed(capsys, *words, "--writable", "/srv/media", "--user", "you", "--group", "web")
    assert "\nUser=you\nGroup=web\n" in own
    assert "chown -R you:web /srv/media" in own
    assert "useradd" not in own


def test_files_are_no_matter_of_the_server(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It would refuse them without --http, and what its own file says is for --http."""
    words = ["nginx", "app", "--chdir", "/srv/mysite", "--static", "/static=static"]
    text = printed(capsys, *words)
    assert "location ^~ /static/ {\n        alias /srv/mysite/static/;\n" in text
    assert served(server_command(text)).static == ()
    path = tmp_path / "site.toml"
    path.write_text('http = "127.0.0.1:8000"\nstatic = "/own=own"\n')
    assert "/own" not in printed(capsys, "nginx", "app", "--config", str(path))


@pytest.mark.parametrize(
    ("program", "there", "missing"),
    [
        ("nginx", "--static --sendfile --server-name --standalone", "--writable --user --threads"),
        ("caddy", "--server-name --http", "--static --sendfile --writable --check-config"),
        ("systemd", "--writable --user --umask", "--static --standalone --server-name"),
    ],
)
def test_help_shows_what_concerns_the_program(
    capsys: pytest.CaptureFixture[str], program: str, there: str, missing: str
) -> None:
    with pytest.raises(SystemExit):
        main(["config", program, "--help"])
    words = capsys.readouterr().out.replace(",", "").split()
    assert set(there.split()) <= set(words)
    assert not set(missing.split()) & set(words)


def test_words_that_mean_something_to_systemd() -> None:
    assert quoted("%h $HOME") == '"%%h $$HOME"'
    assert quoted(";") == '";"'
    assert quoted("") == '""'
    assert quoted('a\\"b') == '"a\\\\\\"b"'
