"""config: the files with defaults for options, and where each value comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.common import Common, command, group
from ovseg_cli.cli.defaults import PROJECT_FILE, VARIABLE, commands_with_defaults, user_file
from ovseg_cli.cli.output import fields, table
from ovseg_cli.errors import OvsegError, UsageError

if TYPE_CHECKING:
    from ovseg_cli.cli.defaults import Defaults

_BUILT_IN = {"device": "auto", "precision": "auto", "offline": False, "quiet": False}


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    own = group(
        app,
        "config",
        examples=("ovseg config", "ovseg config show --json", "ovseg config new"),
        function=show,
        tolerant=True,
    )
    command(own, "show", examples=("ovseg config show", "ovseg config show --json"), tolerant=True)(show)
    command(own, "path", examples=("ovseg config path",), tolerant=True)(path)
    command(own, "new", examples=("ovseg config new", "ovseg config new --user"), tolerant=True)(new)


def show(common: Common) -> None:
    """Show the options that are set in files or in the environment, and where.

    Typed options go before the environment, that before `ovseg.toml` of the project (the current folder, or the nearest
    one above it, up to a repository's root or your home), and that before `config.toml` in your configuration folder.
    `OVSEG_CONFIG=FILE` takes the place of both files, and `OVSEG_CONFIG=/dev/null` is for none.
    """
    if common.defaults.problem is not None:
        raise common.defaults.problem
    out = common.out
    rows = _values(common.defaults)

    def human() -> None:
        out.show(
            table(
                ("option", "left"),
                ("value", "left"),
                ("from", "left"),
                rows=[(row["option"], _shown(row["value"]), row["from"]) for row in rows],
            )
        )
        for note in common.defaults.notes:
            out.note(note)

    out.result(rows, human=human, quiet=[f"{row['option']}={_shown(row['value'])}" for row in rows])


def _values(defaults: Defaults) -> list[dict[str, Any]]:
    """Every option of all commands, and of single commands those that are set."""
    root = _root()
    rows: list[dict[str, Any]] = []
    for key, parameter in commands_with_defaults(root)[""].items():
        variable = parameter.envvar if isinstance(parameter.envvar, str) else None
        setting = defaults.settings.get(("", parameter.name))
        if variable and os.environ.get(variable):
            rows.append({"option": key, "value": os.environ[variable], "from": variable})
        elif setting is not None:
            rows.append({"option": key, "value": setting.value, "from": setting.where})
        else:
            rows.append({"option": key, "value": _BUILT_IN.get(key), "from": "default"})
    for (name, _), setting in defaults.settings.items():
        if name:
            rows.append({"option": setting.name, "value": setting.value, "from": setting.where})
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def path(common: Common) -> None:
    """Print where the files are looked for.

    The project's is the one that is there, or the one that `ovseg config new` would write.
    """
    from ovseg_cli.cli.defaults import project_file
    from ovseg_cli.profiles.own import own_folder

    named = os.environ.get(VARIABLE)
    places: dict[str, Path | None] = {
        "project": project_file() or Path.cwd() / PROJECT_FILE,
        "user": user_file(),
        "profiles": own_folder(),
    }
    if named:
        places = {VARIABLE: Path(named), "profiles": places["profiles"]}
    known = {name: str(place) for name, place in places.items() if place is not None}
    out = common.out
    data = {name: {"path": place, "exists": os.path.exists(place)} for name, place in known.items()}

    def human() -> None:
        out.show(
            fields((name, place if data[name]["exists"] else f"{place} (not there)") for name, place in known.items())
        )

    out.result(data, human=human, quiet=list(known.values()))


def new(
    common: Common,
    user: Annotated[bool, typer.Option("--user", help="Write your own file instead of the project's.")] = False,
) -> None:
    """Write a file with every option that can be set, each as a comment, into the current folder."""
    from ovseg_cli.atomic import write_text

    file = user_file() if user else Path.cwd() / PROJECT_FILE
    if file is None:
        raise OvsegError("This user has no home folder, so there is no place for a file of their own.")
    if os.path.lexists(file):
        raise UsageError(f"{file} is there already. Edit it, or delete it first.")
    write_text(file, _template(user=user))
    common.out.result({"file": str(file)}, human=lambda: common.out.line(str(file), copyable=True), quiet=[file])


def _template(*, user: bool) -> str:
    lines = [
        "# Defaults for the options of ovseg: take away the # in front of what you want to set.",
        "# What is typed goes before this file; `ovseg config show` says where each value comes from.",
        "# Paths begin at this file's folder"
        + ("." if user else ", and do not lead out of it: those belong in `ovseg config new --user`."),
    ]
    for name, options in commands_with_defaults(_root()).items():
        lines += ["", f"[{name}]"] if name else [""]
        for key, parameter in options.items():
            lines.append(f"# {key} = {_example(parameter)}  # {parameter.help}")
    return "\n".join(lines) + "\n"


def _example(parameter: Any) -> str:
    kind = parameter.type_descriptor
    if parameter.is_flag:
        return "true"
    if kind.annotation in (int, float):
        return "1" if kind.annotation is int else "0.5"
    word = kind.choices[0] if kind.is_choice and kind.choices else parameter.metavar or "…"
    return f'["{word}"]' if parameter.multiple else f'"{word}"'


def _root() -> Any:
    from ovseg_cli.cli.app import app

    return typer.main.get_command(app)
