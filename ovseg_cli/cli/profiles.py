"""profiles and pull: the model sets that ovseg and the user have, whether their weights are here, and getting them."""

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
    from ovseg_cli.profiles.specs import Weights

_SHOWN_REVISION = 12


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    own = group(
        app,
        "profiles",
        examples=("ovseg profiles", "ovseg profiles --json", "ovseg profiles show cliper-l"),
        function=profiles,
    )
    command(own, "show", examples=("ovseg profiles show cliper-l", "ovseg profiles show sd15 --json"))(show)
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
    """List the model sets, what they are for, and whether their weights are here.

    A store keeps the profile that it was made with. Those of your own are the files in the folder `profiles` of your
    configuration folder, see `ovseg config path`.
    """
    from ovseg_cli.profiles import PROFILES, weights_status
    from ovseg_cli.profiles.own import own_profiles

    out = common.out
    readings, broken = own_profiles()
    every = [*PROFILES.values(), *(reading.profile for reading in readings)]
    known = [(each, weights_status(each.weights, each)) for each in every]
    rows = [
        (
            Text(each.name, style="bold"),
            Text("here" if all(state.present for state in states) else "missing"),
            file_size(sum(state.nbytes for state in states)),
            Text.assemble(each.summary, *_for_what(each)),
        )
        for each, states in known
    ]
    rows += [
        (Text(path.stem, style="bold"), Text("cannot be used", style="red"), "", Text(why, style="dim"))
        for path, why in broken.items()
    ]

    def human() -> None:
        out.show(table(("profile", "left"), ("weights", "left"), ("size", "right"), ("models", "left"), rows=rows))
        out.hint("one with its models, licences and methods: ovseg profiles show NAME")

    data = [*(profile_data(*pair) for pair in known), *({"name": p.stem, "error": why} for p, why in broken.items())]
    out.result(data, human=human, quiet=[profile.name for profile in every])


def show(
    common: Common,
    name: Annotated[
        str, typer.Argument(metavar="PROFILE", help="Which one, or a file.", autocompletion=complete_profile)
    ],
) -> None:
    """Show a model set: hub ids, pinned revisions, licences and sizes.

    Also the feature extractors that `--extractors` takes, and the methods that it can run.
    """
    from ovseg_cli.profiles import get_profile, weights_status

    profile = get_profile(name)
    states = weights_status(profile.weights, profile)
    common.out.result(
        profile_data(profile, states), human=lambda: _show_profile(common, profile, states), quiet=[profile.name]
    )


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
        then = "pull" if any(weights.repo for weights in profile.weights) else "add-class NAME"
        out.hint(f"change what you like, then: ovseg {then} --profile {shlex.quote(str(file))}", copyable=True)

    out.result({"file": str(file), "from": start}, human=human, quiet=[str(file)])


def _for_what(profile: Profile) -> list[tuple[str, str]]:
    """Lines below the summary: the published table, and where a licence asks for care."""
    lines = [(f"\nfor: {profile.table}", "dim")] if profile.table else []
    return lines if profile.commercial else [*lines, ("\nno commercial use", "yellow")]


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
    states = weights_status(parts, profile)
    _tell_costs(common, profile, states)
    for weights in parts:
        fetch_weights(weights, offline=bool(common.options.offline), profile=profile)
    if pinned is not None:
        profile = get_profile(name)  # with what the models themselves tell, now that they are here
    states = weights_status(parts, profile)
    common.out.result(
        profile_data(profile, states),
        human=lambda: _show_profile(common, profile, states),
        quiet=[str(state.path) for state in states],
    )


def _tell_costs(common: Common, profile: Profile, states: list[WeightsStatus]) -> None:
    """What is about to be downloaded, and what its licences forbid."""
    missing = [state for state in states if not state.present]
    if missing:
        common.out.log(
            f"{profile.name}: {file_size(sum(state.nbytes for state in missing))} to fetch "
            f"({', '.join(f'{state.part} {file_size(state.nbytes)}' for state in missing)}), "
            f"of {file_size(sum(state.nbytes for state in states))} that it takes on the disk"
        )
    for state in states:
        if not state.commercial:
            common.out.warning(f"{_forbidden(state)}: read it before what is made with it is sold or published.")


def _forbidden(state: WeightsStatus) -> str:
    return f"{state.repo} is for non-commercial use only ({state.licence})"


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
    if profile.table:
        out.line((f"for: {profile.table}", "dim"))
    rows = [_weights_row(state, Text(state.part)) for state in states]
    rows += [
        _weights_row(state, Text.assemble(state.part, "\n", (when, "dim")))
        for state, when in _on_request(profile, states)
    ]
    out.show(table(("part", "left"), ("weights", "left"), ("size", "right"), ("model", "left"), rows=rows))
    if profile.extra_extractors:
        own = ", ".join(extractor.name for extractor in profile.extractors)
        extra = ", ".join(extractor.name for extractor in profile.extra_extractors)
        out.line((f"extractors: {own}; with --extractors also {extra}", "dim"))
    generator = profile.generator
    side, guidance = generator.image_size, f"guidance {generator.guidance:g}" if generator.guided else "no guidance"
    drawn = f"{generator.count} images of {side} x {side} in {generator.steps} steps ({generator.sampler}, {guidance})"
    out.line((f"a class: {drawn}", "dim"))
    out.line((f"for words, auto takes {profile.clip.best}; methods: {_methods(profile)}", "dim"))
    for state in states:
        if not state.commercial:
            out.line((_forbidden(state), "yellow"))
    hint = next((state.fetch_hint for state in states if state.fetch_hint), None)
    if hint is not None:
        out.hint(f"fetch them: {hint}", copyable=True)


def _weights_row(state: WeightsStatus, part: Text) -> tuple[Text | str, ...]:
    return (
        part,
        "here" if state.present else "missing",
        file_size(state.nbytes) if state.nbytes else "",
        Text.assemble(state.repo, "\n", (_details(state), "dim")),
    )


def _on_request(profile: Profile, shown: list[WeightsStatus]) -> list[tuple[WeightsStatus, str]]:
    """The weights that the default ensemble does not load and that are not shown yet, and what loads them."""
    from ovseg_cli.profiles import weights_status

    reasons: dict[Weights, str] = {}
    for extractor in profile.extra_extractors:
        reasons.setdefault(extractor.weights, f"--extractors {extractor.name}")
    if profile.regions.sam is not None:
        reasons.setdefault(profile.regions.sam, "--mask-method sam")
    if profile.domain is not None:
        reasons.setdefault(profile.domain.weights, "unfamiliar pictures")
    known = {state.repo for state in shown}
    others = [weights for weights in reasons if weights not in profile.weights and weights.model_id not in known]
    return list(zip(weights_status(others, profile), (reasons[weights] for weights in others), strict=True))


def _methods(profile: Profile) -> str:
    """The methods that it can run, where it cannot run all; and for which of them more has to be fetched."""
    from ovseg_cli.methods.catalogue import METHODS, methods_of
    from ovseg_cli.profiles import find_weights
    from ovseg_cli.profiles.weights import fetch_command

    can = methods_of(profile)
    told = "all" if len(can) == len(METHODS) else ", ".join(can)
    proxy = profile.proxy_extractor
    if proxy is None or proxy.weights in profile.weights or find_weights(proxy.weights) is not None:
        return told
    needing = ", ".join(name for name in can if "proxy" in METHODS[name].networks)
    return f"{told}; for {needing} fetch {proxy.name} too: {fetch_command(proxy.weights, profile)}"


def _details(state: WeightsStatus) -> str:
    revision = state.revision.removeprefix("sha256:")[:_SHOWN_REVISION] or "not pinned yet"
    return f"{revision}, {state.licence}"


def profile_data(profile: Profile, states: list[WeightsStatus]) -> dict[str, Any]:
    """A profile as `--json` prints it."""
    from ovseg_cli.methods.catalogue import methods_of
    from ovseg_cli.profiles import find_weights

    return {
        "name": profile.name,
        "summary": profile.summary,
        "table": profile.table or None,
        "file": profile.source,
        "commercial": all(state.commercial for state in states),
        "methods": list(methods_of(profile)),
        "digest": profile.digest,
        "ready": all(state.present for state in states) and all(e.dim for e in profile.extractors),
        "weights": [_weights_data(state) for state in states],
        "on_request": [{**_weights_data(state), "for": what_for} for state, what_for in _on_request(profile, states)],
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


def _weights_data(state: WeightsStatus) -> dict[str, Any]:
    return {
        "part": state.part,
        "model": state.repo,
        "revision": state.revision,
        "licence": state.licence,
        "commercial": state.commercial,
        "present": state.present,
        "path": None if state.path is None else str(state.path),
        "bytes": state.nbytes,
        "fetch": state.fetch_hint or None,
    }
