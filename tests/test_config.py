"""Settings come from flags, variables, a file and defaults, in this order."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overseer_py.address import Kind
from overseer_py.config import OPTIONS, VARIABLES, Config, Sources
from overseer_py.core.policy import OnExit
from overseer_py.errors import ConfigError
from overseer_py.settings import Settings, stem
from overseer_py.values import ReadyRule
from tests.system.apart import apart

COMMAND = ("python", "app.py")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a directory without an overseer.toml."""
    monkeypatch.chdir(tmp_path)


def load(
    file: str | None = None, environ: Mapping[str, str] | None = None, **flags: object
) -> Config:
    """Return the configuration of these sources; the file is overseer.toml."""
    if file is not None:
        Path("overseer.toml").write_text(file, encoding="utf-8")
    return Sources(flags, COMMAND, environ or {}).load()


def fails(
    file: str | None = None, environ: Mapping[str, str] | None = None, **flags: object
) -> str:
    """Return why these sources are refused, in one line."""
    with pytest.raises(ConfigError) as caught:
        load(file, environ, **flags)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- precedence -----------------------------------------------------------------------------------


def test_defaults() -> None:
    """With nothing given every option has its default, and the name is the program's."""
    config = load()
    assert config.settings == Settings(name="app", command=COMMAND)
    assert (config.addresses, config.warnings) == ((), ())


def test_flag_over_variable_over_file_over_default() -> None:
    """Each layer wins over the ones below it, key by key."""
    file = 'workers = 2\nname = "file"\nsettle = "1s"'
    environ = {"OVERSEER_WORKERS": "3", "OVERSEER_NAME": "variable"}
    settings = load(file, environ, workers="4").settings
    assert (settings.workers, settings.name, settings.settle) == (4, "variable", 1.0)
    assert settings.drain_timeout == 30.0


def test_a_list_is_replaced_and_not_extended() -> None:
    """A stronger layer has the whole list."""
    file = 'listen = ["file=:1", ":2"]'
    assert load(file).settings.listen == ("file=:1", ":2")
    environ = {"OVERSEER_LISTEN": "variable=:3 'unix:/a b'"}
    assert load(environ=environ).settings.listen == ("variable=:3", "unix:/a b")
    assert load(environ=environ, listen=("flag=:4",)).settings.listen == ("flag=:4",)


def test_an_empty_variable_is_no_variable() -> None:
    """A variable that is set to nothing leaves the file's value."""
    assert load("workers = 2", {"OVERSEER_WORKERS": ""}).settings.workers == 2


def test_the_command_line_has_the_last_word_on_the_command() -> None:
    """``command`` of the file is used if the command line has none."""
    Path("overseer.toml").write_text('command = ["node", "server.js"]', encoding="utf-8")
    assert Sources().load().settings.command == ("node", "server.js")
    assert Sources().load().settings.name == "server"
    assert load().settings.command == COMMAND


def test_which_file_is_read(tmp_path: Path) -> None:
    """The one that is named; by a variable; overseer.toml if it is there; or none."""
    for name, workers in (("overseer.toml", 1), ("flag.toml", 2), ("variable.toml", 3)):
        (tmp_path / name).write_text(f"workers = {workers}", encoding="utf-8")
    variable = {"OVERSEER_CONFIG": "variable.toml"}
    for sources, workers in (
        (Sources({}, COMMAND, variable, "flag.toml"), 2),
        (Sources({}, COMMAND, variable), 3),
        (Sources({}, COMMAND), 1),
    ):
        config = sources.load()
        assert config.settings.workers == workers
        assert config.warnings == ()


def test_the_file_is_read_anew(tmp_path: Path) -> None:
    """Loading again sees what has changed."""
    sources = Sources({}, COMMAND, {})
    for workers in (2, 3):
        (tmp_path / "overseer.toml").write_text(f"workers = {workers}", encoding="utf-8")
        assert sources.load().settings.workers == workers
    (tmp_path / "overseer.toml").unlink()
    assert sources.load().settings.workers == 1


# -- how values are written -----------------------------------------------------------------------

EVERYTHING = """
name = "web"
listen = ["http=127.0.0.1:8000", "unix:/run/web.sock?mode=0660"]
workers = 4
ready = "http:/health"
ready-timeout = "2m"
settle = 1.5
surge = "exclusive"
drain-signal = "QUIT"
drain_timeout = "500ms"
stop-delay = 5
on-exit = "exit"
backoff = "0.1s"
backoff-limit = "1h"
max-crashes = 7
restart-signal = "HUP"
chdir = "/srv"
env-file = ["/etc/web.env"]
env-dir = "/etc/web.d"
user = "nobody"
group = "12"
umask = "027"
inherit = "systemd"
pid-file = "/run/web.pid"
control = "none"
log-format = "json"
log-level = "debug"
capture = true
command = ["web", "--fd={fd}"]
[env]
A = "1"
B = 2
"""


def test_every_option_in_a_file() -> None:
    """Numbers may be numbers, and dashes and underscores are the same."""
    Path("overseer.toml").write_text(EVERYTHING, encoding="utf-8")
    config = Sources().load()
    assert config.settings == Settings(
        name="web",
        listen=("http=127.0.0.1:8000", "unix:/run/web.sock?mode=0660"),
        workers=4,
        ready=ReadyRule("http", "/health"),
        ready_timeout=120.0,
        settle=1.5,
        surge=0,
        drain_signal=signal.SIGQUIT,
        drain_timeout=0.5,
        stop_delay=5.0,
        on_exit=OnExit.EXIT,
        backoff=0.1,
        backoff_limit=3600.0,
        max_crashes=7,
        restart_signal=signal.SIGHUP,
        chdir="/srv",
        env=(("A", "1"), ("B", "2")),
        env_file=("/etc/web.env",),
        env_dir=("/etc/web.d",),
        user="nobody",
        group="12",
        umask=0o027,
        inherit=("systemd",),
        pid_file="/run/web.pid",
        control="none",
        log_format="json",
        log_level="debug",
        capture=True,
        command=("web", "--fd={fd}"),
    )
    assert [address.name for address in config.addresses] == ["http", "listener-1"]
    assert [address.kind for address in config.addresses] == [Kind.TCP, Kind.UNIX]


def test_the_same_by_variables_and_by_flags() -> None:
    """Whatever a file can say, the environment and the command line can say as well."""
    given: dict[str, str] = {
        "name": "web",
        "listen": "a=:1 b=:2",
        "env": "A=1 'B=two words'",
        "workers": "4",
        "surge": "2",
        "umask": "0o22",
        "capture": "yes",
        "drain_signal": "sigint",
    }
    by_variable = load(environ={f"OVERSEER_{key.upper()}": text for key, text in given.items()})
    flags: dict[str, Any] = {**given, "capture": True}
    flags |= {"listen": ("a=:1", "b=:2"), "env": ("A=1", "B=two words")}
    assert load(**flags) == by_variable
    settings = by_variable.settings
    assert settings.env == (("A", "1"), ("B", "two words"))
    assert (settings.surge, settings.umask, settings.drain_signal) == (2, 0o22, signal.SIGINT)
    assert settings.capture


@pytest.mark.parametrize("table", ['env = ["A=1", "B=x=y"]', '[env]\nA = 1\nB = "x=y"'])
def test_variables_for_the_workers(table: str) -> None:
    """A table or a list of assignments; what stands behind the first sign is the value."""
    assert load(table).settings.env == (("A", "1"), ("B", "x=y"))


@pytest.mark.parametrize(
    ("text", "flag"),
    [("1", True), ("true", True), ("YES", True), ("0", False), ("False", False), ("no", False)],
)
def test_a_flag_as_a_variable(text: str, flag: bool) -> None:
    """Yes and no may be written in several ways."""
    assert load(environ={"OVERSEER_CAPTURE": text}).settings.capture is flag


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python app.py", "app"),
        ("/usr/bin/python -X dev -W ignore app.py", "app"),
        ("/usr/bin/python3.11 -u /srv/my.app.py --port 1", "my.app"),
        ("python -m http.server", "http.server"),
        ("python -c 'import x; run(x)'", "python"),
        ("uvicorn app:app", "uvicorn"),
        ("/opt/bin/server.sh", "server"),
        ("node --inspect server.js", "server"),
        ("./a.out", "a.out"),
        ("/opt/my program", "my-program"),
        ("python", "python"),
        ("..", "app"),
    ],
)
def test_an_instance_is_named_after_its_program(command: str, name: str) -> None:
    """Of an interpreter's command the script counts; what cannot be in a name is left out."""
    words = ("/opt/my program",) if " p" in command else tuple(command.split(maxsplit=2))
    if "-c" in words:
        words = ("python", "-c", "import x; run(x)")
    elif "/usr" in command:
        words = tuple(command.split())
    assert stem(words) == name
    assert Sources({}, words).load().settings.name == name


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("workerz", "; did you mean workers?"),
        ("drain-timout", "; did you mean drain_timeout?"),
        ("comand", "; did you mean command?"),
        ("zzz", ""),
    ],
)
def test_an_unknown_key_has_a_hint(key: str, hint: str) -> None:
    """The file, the key and the nearest known one are told."""
    assert fails(f"{key} = 1") == f"overseer.toml: {key}: unknown key{hint}"


def test_an_unknown_variable_is_a_warning() -> None:
    """A variable may be meant for a newer version, or for the program: it is named, no more."""
    environ = {"OVERSEER_WORKERZ": "2", "OVERSEER_": "1", "OVERSEER_X_Y": "1", "OTHER": "1"}
    config = load(environ=environ)
    assert config.warnings == (
        "environment: OVERSEER_: unknown",
        "environment: OVERSEER_WORKERZ: unknown; did you mean OVERSEER_WORKERS?",
        "environment: OVERSEER_X_Y: unknown",
    )
    # A worker of another overseer may be an overseer.
    inner = {"OVERSEER_PID": "1", "OVERSEER_SLOT": "0", "OVERSEER_INSTANCE": "outer"}
    assert load(environ=inner).warnings == ()


BAD = {
    "name": ["a/b", "", ".hidden", "-n", "a b", "x" * 65, "é", "a\tb"],
    "workers": ["0", "-1", "1.5", "many", "1025", ""],
    "ready": ["soon", "http:", "http:health", "exec:", "delay:soon", "notify:x", "fd:3", ""],
    "ready_timeout": ["soon", "-1s", "1 week", "", "9" * 400],
    "settle": ["1d"],
    "surge": ["some", "0", "-1", "1.5"],
    "drain_signal": ["NOPE", "KILL", "SIGSTOP", "9", "0", "99", "", "²"],
    "drain_timeout": ["inf", "nan"],
    "on_exit": ["stop", "Restart"],
    "max_crashes": ["-1", "x"],
    "restart_signal": ["KILL"],
    "env": ["A", "=1"],
    "umask": ["8", "0x1", "10000", "-1", ""],
    "inherit": ["windows", "systemd,", ""],
    "log_format": ["xml"],
    "log_level": ["loud"],
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key in BAD for text in BAD[key]])
def test_a_bad_value_names_its_place(key: str, text: str) -> None:
    """File, variable and flag are told with the key, and what was written."""
    raw: Any = [text] if OPTIONS[key].repeat else text
    places = {fails(f"{key} = {json.dumps(raw)}"): f"overseer.toml: {key}: "}
    Path("overseer.toml").unlink()
    if text:
        variable = f"OVERSEER_{key.upper()}"
        places[fails(environ={variable: text})] = f"environment: {variable}: "
    places[fails(**{key: raw})] = f"--{key.replace('_', '-')}: "
    for message, place in places.items():
        assert message.startswith(place)
        assert len(message) > len(place)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("workers = true", "overseer.toml: workers: True is not a text or a number"),
        ("workers = [1]", "overseer.toml: workers: [1] is not a text or a number"),
        ("workers = 1.0", "overseer.toml: workers: '1.0' is not a whole number from 1 to 1024"),
        ("settle = -1", "overseer.toml: settle: '-1' is not a duration; write 500ms"),
        ("settle = inf", "overseer.toml: settle: 'inf' is not a duration"),
        ("name = 2020-01-01", "overseer.toml: name: datetime.date(2020, 1, 1) is not a text"),
        ("capture = 1", "overseer.toml: capture: 1 is not true or false"),
        ('capture = "maybe"', "overseer.toml: capture: 'maybe' is not true or false"),
        ("listen = 8000", "overseer.toml: listen: 8000 is not a list"),
        ("listen = [true]", "overseer.toml: listen: True is not a text or a number"),
        ("[env]\nA = true", "overseer.toml: env: True is not a text or a number"),
        ("[env.A]\nB = 1", "overseer.toml: env: {'B': 1} is not a text or a number"),
        ('env = "A=\'"', "overseer.toml: env: No closing quotation"),
        ('command = "app"', 'overseer.toml: command: not a list of texts; write command = ["'),
        ("command = [1]", "overseer.toml: command: not a list of texts"),
        ('chdir = "a\\u0000b"', "overseer.toml: chdir: 'a\\x00b' holds a zero byte"),
        ('listen = "unix:/a\\u0000b"', "overseer.toml: listen: 'unix:/a\\x00b' holds a zero byte"),
        ('listen = ["unix:/a\\u0000b"]', "overseer.toml: listen: 'unix:/a\\x00b' holds a zero"),
        ('[env]\nA = "\\u0000"', "overseer.toml: env: '\\x00' holds a zero byte"),
        ("workers", "overseer.toml: not TOML: "),
        ("workers = 1\nworkers = 2", "overseer.toml: not TOML: Cannot overwrite a value"),
    ],
)
def test_a_bad_file(file: str, reason: str) -> None:
    """Values of the wrong kind and files that are no TOML are refused in one line."""
    assert fails(file).startswith(reason)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are no TOML."""
    (tmp_path / "overseer.toml").write_bytes(b"name = '\xff'")
    assert fails().startswith("overseer.toml: not TOML: 'utf-8' codec can't decode")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that was named and is not there, or not for us, is an error with the reason."""
    for path, reason in (("gone.toml", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            Sources({}, COMMAND, {}, path).load()
        assert str(caught.value) == f"{path}: {reason}"
    secret = tmp_path / "secret.toml"
    secret.touch(mode=0)

    def run() -> str:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        with pytest.raises(ConfigError) as caught:
            Sources({}, COMMAND, {"OVERSEER_CONFIG": "secret.toml"}).load()
        return str(caught.value)

    assert apart(run) == "secret.toml: Permission denied"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ((), "no command to run; write: overseer run [OPTIONS] -- COMMAND [ARG …]"),
        (("",), "no command to run; write: overseer run [OPTIONS] -- COMMAND [ARG …]"),
        (("a", "b\0"), "command: holds a zero byte"),
    ],
)
def test_there_must_be_a_command(command: tuple[str, ...], reason: str) -> None:
    """Without a program there is nothing to supervise."""
    with pytest.raises(ConfigError) as caught:
        Sources({}, command).load()
    assert str(caught.value) == reason


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT", "CHLD", "TTIN", "TTOU"])
def test_a_restart_signal_that_means_something_else(name: str) -> None:
    """The signals that stop and scale a service keep their meaning."""
    assert fails(restart_signal=name) == (
        f"restart_signal: SIG{name} has a meaning of its own; use USR2"
    )


def test_what_excludes_each_other() -> None:
    """Output cannot be both read and left alone."""
    reason = "capture and no_relay: stderr is either read or handed over; drop one"
    assert fails(capture=True, no_relay=True) == reason


def test_addresses_are_checked_together() -> None:
    """A bad address names itself, and two listeners cannot share a name."""
    assert fails(listen=("nonsense",)).startswith("--listen: 'nonsense' is no address; write HOST:")
    assert fails(listen=("a=:1", "a=:2")) == "listen: 'a=:2': a listener is named a already"
    assert fails(listen=("listener-1=:1", ":2")) == (
        "listen: ':2': a listener is named listener-1 already"
    )


@given(
    st.dictionaries(
        st.sampled_from(sorted(VARIABLES)), st.text(st.characters(exclude_characters="\0"))
    )
)
def test_no_environment_is_a_traceback(environ: dict[str, str]) -> None:
    """Whatever stands in the variables, it is taken or refused with their name."""
    try:
        Sources({}, COMMAND, environ).load()
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right


def test_a_mode_is_a_text_in_the_file() -> None:
    """TOML reads 0o027 as the number 23, which would be another mode."""
    assert fails("umask = 0o027").endswith('umask: write a mode as a text: umask = "0027"')
    assert load('umask = "0027"').settings.umask == 0o027


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "workers = " + "9" * 5000])
def test_what_is_long_beyond_reason_is_not_toml(text: str) -> None:
    """A file that breaks the parser is refused as any other bad one."""
    assert "not TOML" in fails(text)
