"""profiles and pull: the model sets that ovseg knows, whether their weights are here, and how they get here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.complete import complete_profile
from ovseg_cli.cli.options import ExtractorsOpt, MaskMethodOpt, split_names
from ovseg_cli.cli.output import file_size, table
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile, WeightsStatus

_SHOWN_REVISION = 12


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(app, "profiles", examples=("ovseg profiles", "ovseg profiles cliper-l", "ovseg profiles --json"))(profiles)
    command(
        app,
        "pull",
        examples=("ovseg pull", "ovseg pull --profile sd15", "ovseg pull --profile sd15 --extractors sd,clip,dinov2"),
    )(pull)


def profiles(
    common: Common,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROFILE]",
            help="Show this one with its models.",
            show_default=False,
            autocompletion=complete_profile,
        ),
    ] = None,
) -> None:
    """List the model sets, what they are for, and whether their weights are here; or one with its models.

    Of one: hub ids, pinned revisions, licences and sizes, the feature extractors that `--extractors` takes, and the
    methods that it can run. A store keeps the profile that it was made with.
    """
    from ovseg_cli.profiles import PROFILES, get_profile, weights_status

    out = common.out
    if name is not None:
        one = get_profile(name)
        states = weights_status(one.weights, one)
        out.result(profile_data(one, states), human=lambda: _show_profile(common, one, states), quiet=[one.name])
        return
    known = [(each, weights_status(each.weights, each)) for each in PROFILES.values()]
    rows = [
        (
            Text(each.name, style="bold"),
            "here" if all(state.present for state in states) else "missing",
            file_size(sum(state.nbytes for state in states)),
            Text.assemble(each.summary, *_for_what(each)),
        )
        for each, states in known
    ]

    def human() -> None:
        out.show(table(("profile", "left"), ("weights", "left"), ("size", "right"), ("models", "left"), rows=rows))
        out.hint("one with its models, licences and methods: ovseg profiles NAME")

    out.result([profile_data(*pair) for pair in known], human=human, quiet=list(PROFILES))


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
    """
    from ovseg_cli.profiles import fetch_weights, get_profile, weights_status

    profile = get_profile(common.options.profile or "sd15")
    parts = profile.weights_for(profile.pick_extractors(split_names(extractors) or None))
    if mask_method == "sam":
        if profile.regions.sam is None:
            raise UsageError(f"The profile {profile.name!r} has no SAM weights. Leave out --mask-method sam.")
        parts += (profile.regions.sam,)
    states = weights_status(parts, profile)
    _tell_costs(common, profile, states)
    for weights in parts:
        fetch_weights(weights, offline=common.options.offline, profile=profile)
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


def _show_profile(common: Common, profile: Profile, states: list[WeightsStatus]) -> None:
    out = common.out
    here = all(state.present for state in states)
    out.line((profile.name, "bold"), ("  ready" if here else "  weights are missing", "green" if here else "yellow"))
    out.line((profile.summary, "dim"))
    if profile.table:
        out.line((f"for: {profile.table}", "dim"))
    rows = [
        (
            state.part,
            "here" if state.present else "missing",
            file_size(state.nbytes),
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
        out.line((f"with --mask-method sam also {sam.model_id} ({file_size(sam.nbytes)}, {sam.licence})", "dim"))
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


def _methods(profile: Profile) -> str:
    """The methods that it can run, where it cannot run all; and for which of them more has to be fetched."""
    from ovseg_cli.methods.catalogue import METHODS, methods_of

    can = methods_of(profile)
    told = "all" if len(can) == len(METHODS) else ", ".join(can)
    proxy = profile.proxy_extractor
    if proxy is None or proxy.weights in profile.weights:
        return told
    needing = ", ".join(name for name in can if "proxy" in METHODS[name].networks)
    fetch = f"ovseg pull --profile {profile.name} --extractors {proxy.name}"
    return f"{told}; for {needing} fetch {proxy.name} too: {fetch}"


def _details(state: WeightsStatus) -> str:
    revision = state.revision.removeprefix("sha256:")[:_SHOWN_REVISION]
    return f"{revision}, {state.licence}"


def profile_data(profile: Profile, states: list[WeightsStatus]) -> dict[str, Any]:
    """A profile as `--json` prints it."""
    from ovseg_cli.methods.catalogue import methods_of
    from ovseg_cli.profiles import find_weights

    return {
        "name": profile.name,
        "summary": profile.summary,
        "table": profile.table or None,
        "commercial": all(state.commercial for state in states),
        "methods": list(methods_of(profile)),
        "digest": profile.digest,
        "ready": all(state.present for state in states),
        "weights": [
            {
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
