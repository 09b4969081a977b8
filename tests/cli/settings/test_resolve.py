from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from support.settings import other_text, other_value

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.cli import main
from vsgi_fcgi.cli.commands import SERVE
from vsgi_fcgi.cli.settings.command import key_name, variable_name
from vsgi_fcgi.cli.settings.command_line import parse
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.cli.settings.resolve import Configuration, resolve
from vsgi_fcgi.exceptions import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use(words: str = "", **variables: str) -> Configuration:
    """Return the configuration for a command line and variables, in the working folder."""
    return resolve(parse(words.split()), variables)


def refusal(words: str = "", **variables: str) -> str:
    """Return the error message for a configuration that cannot be used."""
    with pytest.raises(UsageError) as caught:
        use(words, **variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Each source


@pytest.mark.parametrize("name", SERVE.fields)
def test_every_setting_has_a_variable(folder: Path, name: str) -> None:
    found = use(**{variable_name(name): other_text(name)})
    assert found.options == dataclasses.replace(Options(), **{name: other_value(name)})
    assert found.origins == {
        **dict.fromkeys(SERVE.fields, "default"),
        name: f"VSGI_FCGI_{name.upper()}",
    }


@pytest.mark.parametrize("name", SERVE.fields)
def test_every_setting_has_a_key(folder: Path, name: str) -> None:
    value = SERVE.converter(name).all_to_toml(other_value(name))
    (folder / "site.toml").write_text(f"{key_name(name)} = {value}\n")
    found = use("-c site.toml")
    assert found.options == dataclasses.replace(Options(), **{name: other_value(name)})
    assert found.origins[name] == "site.toml"


def test_the_table_of_pyproject_toml_is_read_without_being_named(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.other]\nthreads = 2\n[tool.vsgi-fcgi]\nthreads = 3\n'
    )
    assert use().options.threads == 3
    assert use().origins["threads"] == "pyproject.toml"


def test_pyproject_toml_is_that_of_the_folder_to_work_in(folder: Path) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "pyproject.toml").write_text("[tool.vsgi-fcgi]\nthreads = 5\n")
    (folder / "pyproject.toml").write_text("[tool.vsgi-fcgi]\nthreads = 6\n")
    assert use("--chdir site").options.threads == 5
    assert use(VSGI_FCGI_CHDIR="site").options.threads == 5
    assert use().options.threads == 6


def test_a_named_file_takes_the_place_of_pyproject_toml(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.vsgi-fcgi]\nthreads = 6\n")
    (folder / "site.toml").write_text("backlog = 7\n")
    for found in (use("--config site.toml"), use(VSGI_FCGI_CONFIG="site.toml")):
        assert (found.options.backlog, found.options.threads) == (7, Options().threads)


def test_keys_may_have_underscores_and_lists_may_be_one_item(folder: Path) -> None:
    (folder / "site.toml").write_text('max_queued = 9\nbind = "unix:a"\nsend-timeout = 5\n')
    options = use("-c site.toml").options
    assert (options.max_queued, options.bind, options.send_timeout) == (9, ("unix:a",), 5.0)


@pytest.mark.parametrize("text", ['"0640"', '"640"', "0o640"])
def test_a_mode_in_toml_is_octal_however_it_is_written(folder: Path, text: str) -> None:
    (folder / "site.toml").write_text(f"socket-mode = {text}\n")
    assert use("-c site.toml").options.socket_mode == 0o640


def test_commas_part_the_items_of_a_variable(folder: Path) -> None:
    options = use(VSGI_FCGI_BIND="unix:a, fd://3", VSGI_FCGI_PORT="80,81").options
    assert (options.bind, options.port) == (("unix:a", "fd://3"), (80, 81))


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_what_is_true_in_a_variable(folder: Path, text: str) -> None:
    assert use(VSGI_FCGI_RELOAD=text).options.reload is True


def test_an_empty_variable_says_nothing(folder: Path) -> None:
    assert use(VSGI_FCGI_THREADS="", VSGI_FCGI_CONFIG="").options == Options()


# Precedence


def test_the_command_line_precedes_the_environment_and_that_the_file(folder: Path) -> None:
    (folder / "site.toml").write_text("threads = 1\nbacklog = 1\nmax-queued = 1\n")
    found = use("-c site.toml --threads 3", VSGI_FCGI_THREADS="2", VSGI_FCGI_BACKLOG="2")
    options, origins = found.options, found.origins
    assert (options.threads, options.backlog, options.max_queued) == (3, 2, 1)
    assert (origins["threads"], origins["backlog"], origins["max_queued"]) == (
        *("--threads", "VSGI_FCGI_BACKLOG", "site.toml"),
    )


def test_whoever_names_one_address_names_them_all(folder: Path) -> None:
    (folder / "site.toml").write_text('bind = ["unix:a", "unix:b"]\nsocket = "c"\nthreads = 2\n')
    assert use("-c site.toml -s d").options.addresses() == [UnixAddress("d")]
    assert use("-c site.toml", VSGI_FCGI_SOCKET="e").options.addresses() == [UnixAddress("e")]
    found = use("-c site.toml -s d")
    assert (found.origins["bind"], found.options.threads) == ("default", 2)


# What cannot be used


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("thread = 3", "thread in site.toml: there is no such setting; did you mean threads?"),
        (
            "max_bodybytes = 3",
            "max_bodybytes in site.toml: there is no such setting; did you mean max-bo",
        ),
        ("zzz = 3", "zzz in site.toml: there is no such setting"),
        ("threads = 0", "threads in site.toml is 0, but must be at least 1"),
        ('threads = "3"', "threads in site.toml: '3' is not a whole number"),
        ("threads = true", "threads in site.toml: True is not a whole number"),
        ("reload = 1", "reload in site.toml: 1 is neither true nor false"),
        ("chdir = 1", "chdir in site.toml: 1 is not text; write it in quotes"),
        ("bind = [1]", "bind in site.toml: 1 is not text"),
        ("send-timeout = 'x'", "send-timeout in site.toml: 'x' is not a number"),
        ("socket-mode = 660", "socket-mode in site.toml is 1224, but must be at most 0777"),
        ("worker = 'fork'", "worker in site.toml is 'fork', but must be one of thread, main"),
        ("max-queued = 1\nmax_queued = 2", "max-queued is twice in site.toml, with - and with _"),
        ("threads = ", "the configuration file site.toml is not TOML: Invalid value"),
        ("threads = " + "[" * 2000, "the configuration file site.toml is not TOML: maximum recurs"),
        ("threads = " + "9" * 5000, "the configuration file site.toml is not TOML: Exceeds the"),
        ("threads = " + "9" * 400, "threads in site.toml: the number does not fit into 64 bits"),
        ("send-timeout = " + "9" * 400, "send-timeout in site.toml: the number does not fit"),
        ("push-key = 'base64:ü'", "push-key in site.toml is not valid after base64"),
        ("[tool.vsgi-fcgi]\nthreads = 3", "tool in site.toml: there is no such setting"),
    ],
)
def test_a_file_with_mistakes(folder: Path, text: str, sentence: str) -> None:
    (folder / "site.toml").write_text(text)
    assert sentence in refusal("-c site.toml")


def test_a_table_that_is_none(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool]\nvsgi-fcgi = 3\n")
    assert "write [tool.vsgi-fcgi]" in refusal()


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    assert refusal("-c nowhere.toml") == (
        "the configuration file nowhere.toml cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"VSGI_FCGI_THREADS": "many"}, "VSGI_FCGI_THREADS: 'many' is not a whole number"),
        ({"VSGI_FCGI_THREADS": "0"}, "VSGI_FCGI_THREADS is 0, but must be at least 1"),
        ({"VSGI_FCGI_RELOAD": "perhaps"}, "VSGI_FCGI_RELOAD: 'perhaps' is neither true nor"),
        ({"VSGI_FCGI_WORKER": "fork"}, "VSGI_FCGI_WORKER is 'fork', but must be one of"),
    ],
)
def test_variables_with_mistakes(folder: Path, variables: dict[str, str], sentence: str) -> None:
    assert sentence in refusal(**variables)


def test_variables_that_are_no_settings_are_ignored_with_one_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Kubernetes makes them for a service that is called vsgi-fcgi."""
    variables = {
        "VSGI_FCGI_PORT": "tcp://10.0.0.7:9000",
        "VSGI_FCGI_PORT_9000_TCP_ADDR": "10.0.0.7",
        "VSGI_FCGI_SERVICE_HOST": "10.0.0.7",
        "VSGI_FCGI_THREDS": "3",
    }
    found = use(**variables)
    assert found.options.port == ()
    assert capsys.readouterr().err == (
        "vsgi-fcgi: warning: these environment variables are not settings and are ignored:"
        " VSGI_FCGI_PORT, VSGI_FCGI_PORT_9000_TCP_ADDR, VSGI_FCGI_SERVICE_HOST,"
        " VSGI_FCGI_THREDS (did you mean VSGI_FCGI_THREADS?)\n"
    )


# Saying it


def test_what_is_printed_is_a_configuration_file_that_says_the_same(folder: Path) -> None:
    for name in SERVE.fields:
        text = SERVE.converter(name).all_to_toml(other_value(name))
        with (folder / "site.toml").open("a") as file:
            file.write(f"{key_name(name)} = {text}\n")
    found = use("-c site.toml")
    printed = found.as_toml()
    assert printed.count("# site.toml\n") == len(SERVE.fields)
    (folder / "again.toml").write_text(printed)
    assert use("-c again.toml").options == found.options


def test_the_settings_of_another_command_are_printed_as_its_table(folder: Path) -> None:
    found = use("relay --upstream unix:/run/a.sock --connections 3")
    (folder / "again.toml").write_text(found.as_toml())
    assert use("relay -c again.toml").options == found.options


def test_each_digit_of_a_number_is_printed(folder: Path) -> None:
    printed = use("--send-timeout 0.123456789 --receive-timeout 30").as_toml()
    assert "\nsend-timeout = 0.123456789 " in printed
    assert "\nreceive-timeout = 30 " in printed


def test_a_file_name_that_is_not_utf_8_cannot_be_printed(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"chdir is '/\\udcff', which is not UTF-8"):
        use("--chdir /\udcff").as_toml()


def test_a_text_with_anything_in_it_is_printed_as_toml(folder: Path) -> None:
    text = 'a "b" \\ \t é \x7f # %'
    found = resolve(parse(["--proc-name", text, "app"]), {})
    assert tomllib.loads(found.as_toml())["proc-name"] == text


def test_print_config(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSGI_FCGI_MAX_QUEUED", "5")
    assert main(["--print-config", "--bind", "unix:a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for expected in (
        'bind = ["unix:a"]                         # --bind',
        "max-queued = 5                            # VSGI_FCGI_MAX_QUEUED",
        "backlog = 1024                            # default",
        "# chdir is not set                        # default",
    ):
        assert expected in lines


def test_check_config_says_what_is_not_default_and_loads_the_app(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "checked_site.py").write_text("app = print\n")
    assert main(["checked_site", "--check-config", "-s", "a.sock"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'app = "checked_site"                      # APP',
        'socket = ["a.sock"]                       # --socket',
        "",
        "The app was loaded, and the settings are valid.",
    ]
    assert not (folder / "a.sock").exists()


def test_check_config_of_an_app_that_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "failing_site.py").write_text("1 / 0\n")
    assert main(["failing_site", "--check-config"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(
        "importing failing_site failed with ZeroDivisionError: division by zero\n"
    )
