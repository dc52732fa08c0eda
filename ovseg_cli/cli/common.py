"""What every command shares: the global options, the context made of them, and how errors end a command.

The global options work before and after the command's name (`ovseg --json list-classes` and
`ovseg list-classes --json`). They are defined once here; `command` adds them to each command's signature.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import os
import re
import shlex
import sys
import tempfile
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from ovseg_cli.cli import signals
from ovseg_cli.cli.complete import complete_profile
from ovseg_cli.cli.defaults import RIVALS, Defaults, Setting, blamed, read_defaults
from ovseg_cli.cli.output import Output, dump_json, failure_data, set_up_logging, silence_stdout
from ovseg_cli.cli.signals import Terminated
from ovseg_cli.cli.visible import visible
from ovseg_cli.errors import OvsegError, StoreNotFoundError, UsageError
from ovseg_cli.files.discovery import expanded
from ovseg_cli.precision import PRECISIONS, Precision
from ovseg_cli.urls import is_url, redacted_argument

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.profiles import Profile
    from ovseg_cli.store import Store

PANEL = "Global options (before or after the command)"
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The global options as typed, before and after the command's name together."""

    store: Path | None = None
    profile: str | None = None
    device: str | None = None
    precision: str | None = None
    offline: bool | None = None
    json: bool = False
    quiet: bool | None = None
    verbose: int = 0

    def merged(self, later: Globals) -> Globals:
        """These values, with those of `later` (typed after the command's name) winning."""
        return Globals(
            store=later.store or self.store,
            profile=later.profile or self.profile,
            device=later.device or self.device,
            precision=later.precision or self.precision,
            offline=self.offline if later.offline is None else later.offline,
            json=later.json or self.json,
            quiet=self.quiet if later.quiet is None else later.quiet,
            verbose=max(later.verbose, self.verbose),
        )


@dataclass(slots=True)
class Common:
    """What a command body works with.

    Attributes:
        options: the merged global options.
        out: the output sink.
        argv: the command line, for the record.
        defaults: what the files with defaults say.
        configured: the options that come from such a file, each with its value and its place, for the record.
    """

    options: Globals
    out: Output
    argv: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))
    defaults: Defaults = field(default_factory=Defaults)
    configured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device that was asked for, `auto` by default."""
        return self.options.device or "auto"

    @property
    def precision(self) -> Precision:
        """The precision that was asked for, `auto` by default."""
        return cast("Precision", self.options.precision or "auto")

    def open_store(self, *, create: bool = True) -> Store:
        """Open the store that `--store`, `OVSEG_STORE` or the default names.

        Args:
            create: make it when it does not exist yet.

        Raises:
            StoreError: when it cannot be opened, or is absent and `create` is false.
        """
        from ovseg_cli.store import Store

        return Store.open(self.options.store, profile=self.options.profile, create=create)

    @contextmanager
    def store_for_planning(self) -> Iterator[Store]:
        """The store, or a passing one where there is none: who only plans makes no store."""
        from ovseg_cli.store import Store

        found = self.find_store()
        if found is not None:
            with found:
                yield found
            return
        with (
            tempfile.TemporaryDirectory(prefix="ovseg-plan-") as folder,
            Store.open(folder, profile=self.options.profile) as passing,
        ):
            yield passing

    def find_store(self, *, any_profile: bool = False, typed: bool = False) -> Store | None:
        """The store if there is one; a command that only reads makes none.

        Args:
            any_profile: take it whatever profile it was made with, for what has nothing to do with models.
            typed: whether one that is typed behind `--store` has to be there: it may be a slip of the pen.

        Raises:
            StoreNotFoundError: with `typed`, when such a folder holds none.
        """
        from ovseg_cli.store import Store

        try:
            return Store.open(self.options.store, profile=None if any_profile else self.options.profile, create=False)
        except StoreNotFoundError:
            if typed and self._store_is_typed:
                raise
            return None

    @property
    def _store_is_typed(self) -> bool:
        """Whether `--store` stands on the command line, in the place of the variable."""
        variable = os.environ.get("OVSEG_STORE")
        return self.options.store is not None and not (variable and expanded(variable) == self.options.store)

    def profile_of(self, store: Store) -> Profile:
        """The profile that `store` was made with."""
        from ovseg_cli.profiles import profile_of

        return profile_of(store)

    def load_models(self, profile: Profile, *, precision: Precision | None = None) -> Models:
        """Load the networks of `profile` onto the device that was asked for.

        Args:
            profile: the model set.
            precision: what they compute in; None for what was asked for.
        """
        from ovseg_cli.models import load_models

        return load_models(profile, device=self.device, precision=precision or self.precision)


# ---------------------------------------------------------------------- the global options, once


def _store_folder(value: str) -> Path:
    """A store's folder; an unset shell variable must not mean the current one."""
    if not str(value):
        raise typer.BadParameter("is empty; name a folder.")
    return Path(value)


def _check_device(value: str | None) -> str | None:
    if value is not None and not _DEVICE.fullmatch(value):
        raise typer.BadParameter(f"got {value!r}; choose auto, cpu, mps, cuda or cuda:N.")
    return value


def _check_precision(value: str | None) -> str | None:
    if value is not None and value not in PRECISIONS:
        raise typer.BadParameter(f"got {value!r}; choose {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}.")
    return value


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ovseg {version('ovseg')}")
        raise typer.Exit


def _global_parameters(*, root: bool) -> list[inspect.Parameter]:
    """The global options as parameters of a function that typer reads.

    Args:
        root: whether they stand before the command's name. Only those read environment variables:
            after the name, a variable would beat the option typed before it.
    """

    def option(kind: Any, *flags: str, env: str | None = None, **settings: Any) -> Any:
        return Annotated[
            kind,
            typer.Option(*flags, envvar=env if root else None, rich_help_panel=PANEL, show_default=False, **settings),
        ]

    options: dict[str, tuple[Any, Any]] = {
        "store": (
            option(
                Path | None,
                "--store",
                env="OVSEG_STORE",
                metavar="DIR",
                parser=_store_folder,
                help="The folder that holds your classes.",
            ),
            None,
        ),
        "profile": (
            option(
                str | None,
                "--profile",
                env="OVSEG_PROFILE",
                metavar="NAME",
                autocompletion=complete_profile,
                help="The model set of a new store: see `ovseg profiles`.",
            ),
            None,
        ),
        "device": (
            option(
                str | None,
                "--device",
                metavar="DEVICE",
                callback=_check_device,
                help="auto, cpu, mps, cuda or cuda:N.",
            ),
            None,
        ),
        "precision": (
            option(
                str | None,
                "--precision",
                metavar="PRECISION",
                callback=_check_precision,
                help="auto (float16 on CUDA, else float32), float32 or float16.",
            ),
            None,
        ),
        "offline": (
            option(
                bool | None,
                "--offline/--no-offline",
                help="Whether the model hub, which only pull asks, is left alone.",
            ),
            None,
        ),
        "json": (option(bool, "--json", help="Print one JSON document on stdout."), False),
        "quiet": (
            option(bool | None, "--quiet/--no-quiet", "-q", help="Print bare values only, no progress."),
            None,
        ),
        "verbose": (
            option(int, "--verbose", "-v", count=True, metavar="", help="Tell more; twice for debugging."),
            0,
        ),
        "version": (
            option(bool, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
            False,
        ),
    }
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]


_GLOBAL_NAMES = tuple(parameter.name for parameter in _global_parameters(root=True))


def _take_globals(values: dict[str, Any]) -> Globals:
    """Move the global options out of `values` (a command's keyword arguments)."""
    taken = {name: values.pop(name) for name in _GLOBAL_NAMES}
    del taken["version"]  # eager: it has printed and left
    taken["store"] = taken["store"] and expanded(taken["store"])
    return Globals(**taken)


# ---------------------------------------------------------------------- commands


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """Make help into a closed pipe (`ovseg --help | head`) a quiet success; rich would exit with 1."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        silence_stdout()
        raise typer.Exit(0) from error


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """Keep the help from saying `<bool>` behind the flags that typer adds; ours have no type there either."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


@contextmanager
def _usage_errors(*, json: bool) -> Iterator[None]:
    """Show what was typed as it can be shown when the parser complains, and with `--json` as JSON too."""
    try:
        yield
    except typer.TyperException as error:
        error.message = visible(error.message)
        if json:
            sys.stdout.write(dump_json(failure_data(error.format_message(), error.exit_code)) + "\n")
        raise


def _without_rivals(defaults: Mapping[str, Any] | None, typed: set[str]) -> dict[str, Any] | None:
    """Defaults of files without those that exclude what is typed."""
    if not defaults:
        return None
    out = {other for pair in RIVALS for one in pair if one in typed for other in pair if other not in typed}
    return {name: value for name, value in defaults.items() if name not in out}


class OvsegCommand(TyperCommand):
    """A command of ovseg."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; an option that has one value may not be given two.

        Raises:
            typer.BadParameter: it is.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in typing.cast("list[Any]", given):
            single = parameter.param_type_name == "option" and parameter.rich_help_panel != PANEL
            single = single and not (parameter.multiple or parameter.is_flag or parameter.count)
            if single and given.count(parameter) > 1:
                raise typer.BadParameter("is given more than once; name one value.", ctx=ctx, param=parameter)
        ctx.default_map = _without_rivals(ctx.default_map, {parameter.name for parameter in given})
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, --help included."""
        return _without_flag_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _quiet_pipe():
            super().format_help(ctx, formatter)


class OvsegGroup(TyperGroup):
    """A command with commands of its own."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read what stands before the command's name."""
        json = "--json" in itertools.takewhile(lambda arg: arg != "--", args)
        defaults = read_defaults(self)
        with _usage_errors(json=json):
            ctx = super().make_context(info_name, args, parent, default_map=defaults.map(), **extra)
        ctx.meta["ovseg.json"] = json
        ctx.meta["ovseg.defaults"] = defaults
        return ctx

    def invoke(self, ctx: Any) -> Any:
        """Read the rest, and run the command."""
        with _usage_errors(json=ctx.meta["ovseg.json"]):
            return super().invoke(ctx)

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, --help and those for completion included."""
        return _without_flag_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        with _quiet_pipe():
            super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of registration, which is the order of use."""
        return list(self.commands)


def root_callback(app: typer.Typer, *, examples: Sequence[str]) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register the root command, which keeps the global options typed before the command's name.

    Args:
        app: where to register.
        examples: command lines for the help.
    """

    def register(function: Callable[[], None]) -> Callable[[], None]:
        def callback(ctx: typer.Context, **values: Any) -> None:
            ctx.obj = _take_globals(values)
            function()

        _dress(callback, function, [_CONTEXT, *_global_parameters(root=True)])
        app.callback(help=_help_of(function, examples))(callback)
        return function

    return register


class OvsegSubgroup(OvsegGroup):
    """A command with commands of its own, which does something by itself too."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read what stands between its name and that of the command; whether JSON is wanted is known already."""
        return TyperGroup.make_context(self, info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run it, or the command."""
        return TyperGroup.invoke(self, ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; a thing's name in its place is what `show` is for."""
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            show = self.commands.get("show")
            takes_name = show is not None and any(p.param_type_name == "argument" for p in show.params)
            if takes_name and "Did you mean" not in error.message:
                error.message += f" To show one: {ctx.command_path} show {shlex.quote(args[0])}"
            raise


def group(
    app: typer.Typer, name: str, *, examples: Sequence[str], function: Callable[..., None], tolerant: bool = False
) -> typer.Typer:
    """Register a command that has commands of its own, and does `function` when none is named.

    Args:
        app: where to register.
        name: the command's name as typed.
        examples: command lines for the help.
        function: the body, as `command` takes it.
        tolerant: see `command`.

    Returns:
        Where its commands are registered.
    """
    own = typer.Typer(
        cls=OvsegSubgroup, context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode="rich"
    )

    def run(ctx: typer.Context, **values: Any) -> None:
        before = ctx.obj if isinstance(ctx.obj, Globals) else Globals()
        ctx.obj = before.merged(_take_globals(dict(values)))
        if ctx.invoked_subcommand is None:
            _run(ctx, function, values, tolerant=tolerant)

    _dress(run, function, [_CONTEXT, *_own_parameters(function), *_global_parameters(root=False)])
    own.callback(invoke_without_command=True, help=_help_of(function, examples))(run)
    app.add_typer(own, name=name)
    return own


def _run(ctx: typer.Context, function: Callable[..., None], values: dict[str, Any], *, tolerant: bool) -> None:
    """Do what a command is there for."""
    before = ctx.obj if isinstance(ctx.obj, Globals) else Globals()
    later = _take_globals(values)
    options = before.merged(later)
    defaults: Defaults = ctx.meta.get("ovseg.defaults") or Defaults()
    # What is typed behind the command's name goes before what stood in its place before it.
    used = [s for s in defaults.used_by(ctx) if s.command or getattr(later, s.parameter) is None]
    if options.json and any(setting.key == "quiet" for setting in used):
        options = replace(options, quiet=None)  # what a file wishes gives way to what is typed
    common = _begin(options)
    common.defaults = defaults
    common.configured = {setting.name: {"value": setting.value, "from": setting.where} for setting in used}
    with signals.working(), _endings(common.out), _blaming(used):
        _require_current_folder()
        if options.store is not None:
            common.options = replace(options, store=_local(options.store))
        if options.profile is not None and is_url(options.profile):
            _local(Path(options.profile))
        if not tolerant:
            if defaults.problem is not None:
                raise defaults.problem
            _tell(common.out, defaults, used)
        # A shell leaves the ~ of '~/x' and of --gt=~/x alone.
        given = {name: _all_local(value) for name, value in values.items()}
        function(common, **given)


def _all_local(value: Any) -> Any:
    """Paths that are typed where no URL can be, alone or several; other values as they are."""
    if isinstance(value, list):
        return [_all_local(one) for one in value]
    return _local(value) if isinstance(value, Path) else value


def _local(path: Path) -> Path:
    """A path that is typed where no URL can be.

    Raises:
        UsageError: It is one, which pathlib has made a path of.
    """
    scheme, colon, rest = str(path).partition(":/")
    if colon and is_url(f"{scheme}://{rest}") and not os.path.lexists(path):
        if scheme in ("file", "local"):
            return Path(f"/{rest}")
        shown = redacted_argument(f"{scheme}://{rest}")
        raise UsageError(
            f"{shown} is a URL, and a path on this computer is wanted here. Pictures, output folders and runs may be "
            "URLs; stores of classes, heads, lists of classes and reports of figures may not."
        )
    return expanded(path)


def _tell(out: Output, defaults: Defaults, used: Sequence[Setting]) -> None:
    """Say what a project's file has set for this command: the project may be somebody else's."""
    for note in defaults.notes:
        out.note(note)
    for file, scope in defaults.files.items() if out.mode == "human" else ():
        set_there = [setting.name for setting in used if setting.scope == scope == "project"]
        if set_there:
            out.note(f"{file} sets {', '.join(set_there)}")


@contextmanager
def _blaming(used: Sequence[Setting]) -> Iterator[None]:
    """Say of a value that is refused in which file it stands."""
    try:
        yield
    except UsageError as error:
        where = blamed(str(error), used)
        if where:
            raise UsageError(f"{error}{where}") from error
        raise


def _own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """The parameters of a body behind its `Common`, as typer reads them."""
    hints = typing.get_type_hints(function, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(function).parameters.values())[1:]
    ]


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], tolerant: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command body.

    The body's first parameter is a `Common`; the others are its own options. The global options are added
    behind them, deliberate errors become one line and an exit code, and the examples end the help.

    Args:
        app: where to register.
        name: the command's name as typed.
        examples: command lines for the help.
        tolerant: whether it does its work although the files with defaults cannot be used.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run_command(ctx: typer.Context, **values: Any) -> None:
            _run(ctx, function, values, tolerant=tolerant)

        _dress(run_command, function, [_CONTEXT, *_own_parameters(function), *_global_parameters(root=False)])
        app.command(name, cls=OvsegCommand, help=_help_of(function, examples))(run_command)
        return function

    return register


_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)


def _help_of(function: Callable[..., Any], examples: Sequence[str]) -> str:
    """The docstring of a command as its help, with examples."""
    shown = "\n".join(f"  {line}" for line in examples)
    # The backspace is how the help renderer is told to keep a paragraph's line breaks.
    return f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\nExamples:\n{shown}"


def _dress(wrapper: Callable[..., Any], function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Give `wrapper` the name and doc of `function`, and the signature that typer is to see."""
    functools.update_wrapper(wrapper, function)
    for parameter in parameters:
        _hide_type_of_flag(parameter.annotation)
    del wrapper.__wrapped__  # type: ignore[attr-defined]  # inspect would look through to the body's own signature
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _hide_type_of_flag(annotation: Any) -> None:
    """Keep the help from saying `<bool>` behind each flag: an empty metavar takes its place."""
    kind, *extras = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else (annotation,)
    if kind in (bool, bool | None):
        for extra in extras:
            extra.metavar = ""


def _begin(options: Globals) -> Common:
    """Set the stage for one command: output mode, log, and silence from the libraries below."""
    if options.json and options.quiet:
        raise typer.BadParameter("--json and --quiet exclude each other.")
    out = Output(mode="json" if options.json else "quiet" if options.quiet else "human", verbosity=options.verbose)
    set_up_logging(out)
    if not options.verbose:
        # Remarks of the libraries below are for developers; `-v` brings them back.
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    return Common(options=options, out=out)


@contextmanager
def _endings(out: Output) -> Iterator[None]:
    """Turn every way in which a command can end into its exit code, and errors into one line."""
    debug = os.environ.get("OVSEG_DEBUG", "") not in {"", "0"}
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BrokenPipeError:
        silence_stdout()
        raise typer.Exit(0) from None
    except Terminated:
        out.failure("terminated", 143)
        raise typer.Exit(143) from None
    except KeyboardInterrupt:
        out.failure("interrupted", 130)
        raise typer.Exit(130) from None
    except OvsegError as error:
        if debug:
            out.stderr.print_exception()
        out.failure(str(error), error.exit_code)
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        if debug:
            out.stderr.print_exception()
        logging.getLogger("ovseg_cli").debug("unexpected error", exc_info=error)
        out.failure(f"unexpected {type(error).__name__}: {error}. Set OVSEG_DEBUG=1 for the whole story.", 1)
        raise typer.Exit(1) from None


def _require_current_folder() -> None:
    """Refuse to work in a folder that was removed: paths mean nothing there, and torch's libraries cannot be loaded.

    Raises:
        OvsegError: it was.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise OvsegError(
            "The current folder is gone. Change to one that is there, and run the command again."
        ) from None
