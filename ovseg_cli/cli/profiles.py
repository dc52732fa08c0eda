"""profiles and pull: the model sets that ovseg knows, whether their weights are here, and how they get here."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ovseg_cli.cli.common import Common, command, group
from ovseg_cli.cli.complete import complete_profile
from ovseg_cli.cli.options import ExtractorsOpt, MaskMethodOpt, split_names
from ovseg_cli.cli.output import file_size, table
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile, WeightsStatus

_SHOWN_REVISION = 12


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    own = group(
        app,
        "profiles",
        examples=("ovseg profiles", "ovseg profiles --json", "ovseg profiles new my.toml --from sd15"),
        function=profiles,
    )
    command(own, "new", examples=("ovseg profiles new my.toml", "ovseg profiles new my.toml --from mini"))(new)
    command(
        app,
        "pull",
        examples=(
            "ovseg pull",
            "ovseg pull --profile sd15",
            "ovseg pull --profile sd15 --extractors sd,clip,dinov2",
            "ovseg pull --profile my.toml",
        ),
    )(pull)


def profiles(common: Common) -> None:
    """List the model sets and where their weights are.

    With hub ids, pinned revisions, licences and sizes, and the feature extractors that `--extractors` takes. Those of
    your own are the files in the folder `profiles` of your configuration folder, see `ovseg config path`. A store keeps
    the profile that it was made with.
    """
    from ovseg_cli.profiles import PROFILES, weights_status
    from ovseg_cli.profiles.own import own_profiles

    out = common.out
    readings, broken = own_profiles()
    every = [*PROFILES.values(), *(reading.profile for reading in readings)]
    known = [(profile, weights_status(profile.weights)) for profile in every]

    def human() -> None:
        for number, (profile, states) in enumerate(known):
            if number:
                out.line()
            _show_profile(common, profile, states)
        for path, why in broken.items():
            out.line()
            out.line((path.stem, "bold"), ("  cannot be used", "red"))
            out.line((why, "dim"))

    data = [*(profile_data(*pair) for pair in known), *({"name": p.stem, "error": why} for p, why in broken.items())]
    out.result(data, human=human, quiet=[profile.name for profile in every])


def new(
    common: Common,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, called NAME.toml.")],
    start: Annotated[
        str,
        typer.Option("--from", metavar="NAME", autocompletion=complete_profile, help="The profile to start from."),
    ] = "sd15",
) -> None:
    """Write a profile of your own, to be changed as you like.

    Every field is explained where it first stands. `ovseg --profile FILE` takes it from then on. In the folder
    `profiles` of your configuration folder (see `ovseg config path`) it is found by its name, without `.toml`.
    """
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.profiles.own import write_profile

    profile = get_profile(start)
    write_profile(file, replace(profile, summary=f"A profile of my own, which began as {profile.name}."))
    out = common.out

    def human() -> None:
        out.line(str(file), copyable=True)
        out.hint(f"change what you like, then: ovseg pull --profile {shlex.quote(str(file))}", copyable=True)

    out.result({"file": str(file), "from": start}, human=human, quiet=[str(file)])


def pull(
    common: Common,
    extractors: ExtractorsOpt = None,
    mask_method: MaskMethodOpt = None,
) -> None:
    """Fetch a profile's weights from the model hub, once.

    Takes `--profile NAME` (default: sd15). They land in the hub's cache (`HF_HOME`), where `--offline` finds them.
    With `--extractors`: what those need, instead of the profile's own ensemble, beside the models that draw and that
    read class names. With `--mask-method sam`: SAM's too.
    What a profile of your own leaves open is pinned beside its file, as NAME.lock.toml.
    """
    from ovseg_cli.profiles import fetch_weights, get_profile, weights_status

    name = common.options.profile or "sd15"
    pinned = _pin(common, name)
    profile = get_profile(name) if pinned is None else pinned
    parts = profile.weights_for(profile.pick_extractors(split_names(extractors) or None))
    if mask_method == "sam":
        if profile.regions.sam is None:
            raise UsageError(f"The profile {profile.name!r} has no SAM weights. Leave out --mask-method sam.")
        parts += (profile.regions.sam,)
    for weights in parts:
        fetch_weights(weights, offline=bool(common.options.offline))
    if pinned is not None:
        profile = get_profile(name)  # with what the models themselves tell, now that they are here
    states = weights_status(parts)
    common.out.result(
        profile_data(profile, states),
        human=lambda: _show_profile(common, profile, states),
        quiet=[str(state.path) for state in states],
    )


def _pin(common: Common, name: str) -> Profile | None:
    """A profile of the user's own with its revisions pinned; None for one of ovseg's.

    Its weights may not be here yet, so that the shapes of features may be unknown.
    """
    from ovseg_cli.profiles import PROFILES
    from ovseg_cli.profiles.own import file_of, look_up_missing, pin_profile

    file = None if name in PROFILES else file_of(name)
    if file is None:
        return None
    lock = pin_profile(file, offline=bool(common.options.offline))
    if lock is not None:
        common.out.note(f"The revisions that {file.name} leaves open are pinned in {lock}.")
    return look_up_missing(file, offline=bool(common.options.offline))


def _show_profile(common: Common, profile: Profile, states: list[WeightsStatus]) -> None:
    out = common.out
    here = all(state.present for state in states) and all(extractor.dim for extractor in profile.extractors)
    out.line((profile.name, "bold"), ("  ready" if here else "  weights are missing", "green" if here else "yellow"))
    if profile.source is not None:
        out.line((profile.source, "dim"), copyable=True)
    if profile.summary:
        out.line((profile.summary, "dim"))
    rows = [
        (
            state.part,
            "here" if state.present else "missing",
            file_size(state.nbytes) if state.nbytes else "",
            Text.assemble(state.repo, "\n", (_details(state), "dim")),
        )
        for state in states
    ]
    out.show(table(("part", "left"), ("weights", "left"), ("size", "right"), ("model", "left"), rows=rows))
    if profile.extra_extractors:
        own = ", ".join(extractor.name for extractor in profile.extractors)
        extra = ", ".join(extractor.name for extractor in profile.extra_extractors)
        out.line((f"extractors: {own}; with --extractors also {extra}", "dim"))
    if profile.regions.sam is not None:
        sam = profile.regions.sam
        size = f"{file_size(sam.nbytes)}, " if sam.nbytes else ""
        out.line((f"with --mask-method sam also {sam.model_id} ({size}{sam.licence})", "dim"))
    hint = next((state.fetch_hint for state in states if state.fetch_hint), None)
    if hint is not None:
        out.hint(f"fetch them: {hint}", copyable=True)


def _details(state: WeightsStatus) -> str:
    revision = state.revision.removeprefix("sha256:")[:_SHOWN_REVISION] or "not pinned yet"
    return f"{revision}, {state.licence}"


def profile_data(profile: Profile, states: list[WeightsStatus]) -> dict[str, Any]:
    """A profile as `--json` prints it."""
    from ovseg_cli.profiles import find_weights

    return {
        "name": profile.name,
        "summary": profile.summary,
        "file": profile.source,
        "digest": profile.digest,
        "ready": all(state.present for state in states) and all(e.dim for e in profile.extractors),
        "weights": [
            {
                "part": state.part,
                "model": state.repo,
                "revision": state.revision,
                "licence": state.licence,
                "present": state.present,
                "path": None if state.path is None else str(state.path),
                "bytes": state.nbytes,
                "fetch": state.fetch_hint or None,
            }
            for state in states
        ],
        "extractors": [
            {
                "name": extractor.name,
                "default": extractor in profile.extractors,
                "kind": extractor.kind,
                "model": extractor.weights.model_id,
                "dim": extractor.dim,
                "grid": extractor.grid,
                "digest": extractor.digest,
                "present": find_weights(extractor.weights) is not None,
            }
            for extractor in (*profile.extractors, *profile.extra_extractors)
        ],
    }
