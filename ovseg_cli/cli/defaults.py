"""Defaults for options, from files: `ovseg.toml` in a project, and `config.toml` in the user's configuration folder.

What is typed goes before what the environment says, that before the project's file, that before the user's, and that
before what is built in. Which options there are, and what their values may be, is what the command line itself says:
the values become typer's `default_map`.

A project may have been downloaded. Its file cannot name code to run, every path in it stays inside the project's
folder, and what it sets is told. It is left alone where it belongs to another user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from ovseg_cli.errors import UsageError
from ovseg_cli.files.toml import TomlFile, read_toml, shown
from ovseg_cli.names import did_you_mean
from ovseg_cli.urls import is_url, redacted_argument

PROJECT_FILE = "ovseg.toml"
USER_FILE = "config.toml"
VARIABLE = "OVSEG_CONFIG"
"""Names a file that takes the place of both; /dev/null for none."""

Scope = Literal["project", "user"]

EACH_TIME = frozenset({"--if-exists"})
"""Options that decide what happens to what is there already: they are said each time, and not once for all."""

RIVALS = (("classes", "class_file"), ("pred", "images"))
"""Options of which only one can be given: what is typed puts out the other, where that comes from a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value of a file.

    Attributes:
        command: The command; empty for the options of all commands.
        key: As it is written in the file.
        parameter: What the command line calls it inside.
        value: As typer takes it.
        where: The file and the line.
        scope: Which file it is.
    """

    command: str
    key: str
    parameter: str
    value: Any
    where: str
    scope: Scope

    @property
    def name(self) -> str:
        """The key with its table, as people read it."""
        return f"{self.command}.{self.key}" if self.command else self.key


@dataclass(slots=True)
class Defaults:
    """What the files say.

    Attributes:
        settings: By command and parameter, the value that counts.
        files: The files that were read, and which they are.
        notes: What people are told.
        problem: Why the files cannot be used; None where they can.
    """

    settings: dict[tuple[str, str], Setting] = field(default_factory=dict)
    files: dict[Path, Scope] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problem: UsageError | None = None

    def map(self) -> dict[str, Any]:
        """As typer takes it: the options of all commands by parameter, and those of one in a map by its name."""
        made: dict[str, Any] = {}
        for (command, parameter), setting in self.settings.items():
            (made.setdefault(command, {}) if command else made)[parameter] = setting.value
        return made

    def used_by(self, ctx: Any) -> list[Setting]:
        """Those that a command runs with, by what typer says of where its values come from."""
        root = ctx.find_root()
        found = []
        for (command, parameter), setting in self.settings.items():
            here = ctx if command == ctx.info_name else root if not command else None
            source = None if here is None else here.get_parameter_source(parameter)
            if source is not None and source.name == "DEFAULT_MAP":
                found.append(setting)
        return found


def blamed(message: str, settings: Sequence[Setting]) -> str:
    """Where values that a message speaks of were set, to be put behind it; empty where it speaks of none."""
    named = [
        setting
        for setting in settings
        if f"--{setting.key}" in message
        or any(_is_named(item, message) for item in _items(setting.value) if isinstance(item, str))
    ]
    return "".join(f" ({setting.name} is set in {setting.where})" for setting in named)


def _is_named(value: str, message: str) -> bool:
    return repr(value) in message or (os.sep in value and value in message)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


# ---------------------------------------------------------------------- which files


def user_file() -> Path | None:
    """The user's file, whether it is there or not; None for a user without a home."""
    import platformdirs

    try:
        return Path(platformdirs.user_config_dir("ovseg", appauthor=False)) / USER_FILE
    except RuntimeError:
        return None


def project_file() -> Path | None:
    """The nearest `ovseg.toml` from the current folder upwards.

    The search ends at the first folder that is a repository's, and at the user's home.
    """
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        return None
    home = Path(os.path.expanduser("~"))
    while True:
        file = folder / PROJECT_FILE
        if os.path.lexists(file):
            return file
        if os.path.lexists(folder / ".git") or folder in (home, folder.parent):
            return None
        folder = folder.parent


def _belongs_to_another(file: Path) -> bool:
    """Whether another user could have put a file there for this one to find."""
    if not hasattr(os, "geteuid"):
        return False
    mine = {os.geteuid(), 0}
    try:
        return not {os.lstat(file).st_uid, os.stat(file).st_uid} <= mine
    except OSError:
        return False  # told when it is read


def files_to_read() -> tuple[dict[Path, Scope], list[str]]:
    """The files that are there, the one that counts less first, and what is to be told of others."""
    named = os.environ.get(VARIABLE)
    if named:
        return ({} if named == os.devnull else {Path(os.path.expanduser(named)): "user"}), []
    files: dict[Path, Scope] = {}
    notes = []
    user, project = user_file(), project_file()
    if user is not None and os.path.lexists(user):
        files[user] = "user"
    if project is not None and project != user:
        if _belongs_to_another(project):
            notes.append(f"{project} belongs to another user and is left alone. To use it: {VARIABLE}={project}")
        else:
            files[project] = "project"
    return files, notes


# ---------------------------------------------------------------------- what they may say


def settable(command: Any, *, everywhere: bool) -> dict[str, Any]:
    """The options of a command that a file may set, by key.

    A flag that nothing on the command line takes back is none of them, and neither is what is in `EACH_TIME`.

    Args:
        command: As typer has built it.
        everywhere: Whether the options of all commands are wanted, or the command's own.
    """
    from ovseg_cli.cli.common import PANEL

    found = {}
    for parameter in command.params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")]
        if parameter.param_type_name != "option" or not flags or flags[0] in EACH_TIME:
            continue
        if (parameter.is_flag and not parameter.secondary_opts) or parameter.count:
            continue
        if (parameter.rich_help_panel == PANEL) == everywhere:
            found[flags[0].removeprefix("--")] = parameter
    return found


def commands_with_defaults(root: Any) -> dict[str, dict[str, Any]]:
    """The options that files may set, by command; those of all commands under the empty name."""
    found = {"": settable(root, everywhere=True)}
    for name in root.list_commands(None):
        own = settable(root.commands[name], everywhere=False)
        if own and not hasattr(root.commands[name], "commands"):
            found[name] = own
    return found


def read_defaults(root: Any) -> Defaults:
    """What the files say; a file that cannot be used is a `problem`, as help and repairs must work all the same.

    Args:
        root: The root command, as typer has built it.
    """
    defaults = Defaults()
    try:
        files, defaults.notes = files_to_read()
        defaults.files = files
        known = commands_with_defaults(root) if files else {}
        for path, scope in files.items():
            file = read_toml(path, what="configuration")
            for setting in _settings_in(root, file, scope, known):
                defaults.settings[setting.command, setting.parameter] = setting
    except UsageError as error:
        defaults.problem = error
        defaults.settings = {}
    return defaults


def _settings_in(root: Any, file: TomlFile, scope: Scope, known: Mapping[str, Mapping[str, Any]]) -> Iterator[Setting]:
    for key, value in file.data.items():
        if isinstance(value, dict) and key in known and key:
            for inner, item in value.items():
                yield _setting(root, file, scope, key, inner, item, known)
        else:
            yield _setting(root, file, scope, "", key, value, known)


def _setting(
    root: Any, file: TomlFile, scope: Scope, command: str, key: str, value: Any, known: Mapping[str, Mapping[str, Any]]
) -> Setting:
    keys = (command, key) if command else (key,)
    where = file.where(*keys)
    parameter = known[command].get(key)
    if parameter is None:
        raise UsageError(f"{where}: {_unknown(root, command, key, value, known)}")
    plain = _typed(parameter, value, f"{where}: {'.'.join(keys)}")
    from ovseg_cli.cli.options import PlaceText

    if parameter.type_descriptor.annotation in (Path, PlaceText) or (key == "profile" and _is_path(plain)):
        plain = _path(plain, file.path, scope, f"{where}: {'.'.join(keys)}")
    try:
        parameter.process_value(None, plain)
    except typer.TyperException as error:
        raise UsageError(f"{where}: {'.'.join(keys)}: {error.message}") from None
    return Setting(command=command, key=key, parameter=parameter.name, value=plain, where=where, scope=scope)


def _unknown(root: Any, command: str, key: str, value: Any, known: Mapping[str, Mapping[str, Any]]) -> str:
    hyphens = key.replace("_", "-")
    if hyphens != key and hyphens in known[command]:
        return f"there is no option {key!r}. It is written {hyphens!r}."
    if not command and isinstance(value, dict):
        commands = [name for name in known if name]
        return f"there is no command {key!r} with options that a file can set.{did_you_mean(key, commands)}"
    if not command and key in known:
        return f"{key} is a command: its options stand in a table of their own, under [{key}]."
    if command and key in known[""]:
        return f"{key} is an option of all commands: it stands at the beginning, before the first table."
    if any(f"--{key}" in parameter.opts for parameter in (root.commands[command] if command else root).params):
        return f"{key} cannot be set in a file: it is said on the command line, each time."
    homes = [name for name, options in known.items() if name and name != command and key in options]
    if not command and homes:
        return f"{key} is an option of {', '.join(homes)}: put it under [{homes[0]}]."
    whose = f"{command} has" if command else "There is"
    return f"{whose} no option {key!r} that a file can set.{did_you_mean(key, known[command])}"


def _typed(parameter: Any, value: Any, where: str) -> Any:
    """A value of the type that the option has: typer would take many others for it."""
    kind = parameter.type_descriptor.annotation
    kind = (get_args(kind) or (str,))[0] if get_origin(kind) is list else str if get_origin(kind) is Literal else kind
    if parameter.multiple:
        items = value if isinstance(value, list) else [value]
        return [_scalar(kind, item, where) for item in items]
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    what, fits = {
        bool: ("true or false", isinstance(value, bool)),
        int: ("a whole number", isinstance(value, int) and not isinstance(value, bool)),
        float: ("a number", isinstance(value, int | float) and not isinstance(value, bool)),
    }.get(kind, ("a text in quotes", isinstance(value, str)))
    if not fits:
        raise UsageError(f"{where} must be {what}, got {shown(value)}.")
    return value


def _is_path(profile: str) -> bool:
    return os.sep in profile or profile.endswith(".toml")


def _path(value: str, file: Path, scope: Scope, where: str) -> str:
    """A path as the file means it: from the file's own folder; in a project, one that does not lead out of it.

    Raises:
        UsageError: It does.
    """
    if not value:
        return value  # the option says what is wrong with it
    if is_url(value):
        if scope == "project":
            raise UsageError(
                f"{where} leads out of the project's folder, to {redacted_argument(value)}. Such a place belongs in "
                f"your own file, {user_file()}, or on the command line."
            )
        return value
    folder = Path(os.path.abspath(file)).parent
    path = os.path.normpath(folder / os.path.expanduser(value))
    if scope == "project":
        inside = os.path.realpath(folder)
        if os.path.commonpath([inside, os.path.realpath(path)]) != inside:
            raise UsageError(
                f"{where} leads out of the project's folder, to {path}. Such a path belongs in your own file, "
                f"{user_file()}, or on the command line."
            )
    return path
