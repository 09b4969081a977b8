from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.processes import unmeasured

import vsgi_fcgi
from vsgi_fcgi.cli import main
from vsgi_fcgi.cli.commands import COMMANDS, SERVE
from vsgi_fcgi.cli.settings.command import ARGUMENTS, option_name
from vsgi_fcgi.cli.settings.command_line import EXIT_STATUSES, SHELLS
from vsgi_fcgi.cli.settings.man_page import manual

INSTALLED = "site-packages" in vsgi_fcgi.__file__


def rendered() -> str:
    """The manual page as a terminal shows it, on lines long enough not to be broken."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    run = subprocess.run(
        ["groff", "-man", "-ww", "-rLL=2000n", "-Tascii", "-P-cbou"],
        input=manual(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert run.stderr == ""
    return run.stdout


@pytest.mark.process
def test_the_manual_page_has_everything_and_no_mistake_of_roff() -> None:
    text = rendered()
    words = set(re.findall(r"--[\w-]+", text))
    names = {name for command in COMMANDS.values() for name in command.fields}
    assert {option_name(name) for name in names - ARGUMENTS.keys()} <= words
    assert "\n       vsgi-fcgi - serve a WSGI app over FastCGI\n" in text
    for sentence in EXIT_STATUSES.values():
        assert sentence in text
    for heading in ("SYNOPSIS", "OPTIONS", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES"):
        assert f"\n{heading}\n" in text


def test_the_manual_page_is_the_same_on_every_machine() -> None:
    # The default of --threads is not.
    assert "(default: 4 per core, at most 32)" in manual().replace("\\-", "-")


@pytest.mark.skipif(not INSTALLED, reason="the source tree is used and not an installed wheel")
def test_the_wheel_brings_the_manual_page() -> None:
    page = Path(sysconfig.get_path("data")) / "share" / "man" / "man1" / "vsgi-fcgi.1"
    assert page.read_text() == manual()


@pytest.mark.process
def test_the_manual_page_can_be_made_before_anything_is_installed() -> None:
    # The build of a wheel makes it, in an environment that has no gevent.
    code = (
        "import sys, vsgi_fcgi.cli.settings.man_page as page;"
        " page.manual(); print('gevent' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=unmeasured(),
    )
    assert run.stdout == "False\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert all(key.replace("_", "-") in script for key in SERVE.fields if key != "app")


@pytest.mark.process
def test_bash_completes_options_and_values(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    script = subprocess.run(
        [sys.executable, "-m", "vsgi_fcgi", "--print-completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    (tmp_path / "completion").write_text(script.stdout)
    (tmp_path / "a.sock").touch()

    def complete(*words: str) -> list[str]:
        run = subprocess.run(
            [
                *("bash", "--norc", "-c"),
                'source ./completion; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
                ' _shtab_vsgi_fcgi; printf "%s\\n" "${COMPREPLY[@]}"',
                *("bash", "vsgi-fcgi", *words),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return run.stdout.split()

    assert complete("--max-q") == ["--max-queued"]
    assert complete("g") == ["gateway"]
    assert complete("--worker", "") == ["thread", "main", "greenlet"]
    assert complete("--socket", "a") == ["a.sock"]


def test_without_shtab_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "zsh"]) == 2
