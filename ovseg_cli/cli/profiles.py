"""profiles and pull: the model sets that ovseg knows, whether their weights are here, and how they get here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.options import ExtractorsOpt, MaskMethodOpt, split_names
from ovseg_cli.cli.output import file_size, table
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile, WeightsStatus

_SHOWN_REVISION = 12


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(app, "profiles", examples=("ovseg profiles", "ovseg profiles --json"))(profiles)
    command(
        app,
        "pull",
        examples=("ovseg pull", "ovseg pull --profile sd15", "ovseg pull --profile sd15 --extractors sd,clip,dinov2"),
    )(pull)


def profiles(common: Common) -> None:
    """List the model sets and where their weights are.

    With hub ids, pinned revisions, licences and sizes, and the feature extractors that `--extractors` takes. A store
    keeps the profile that it was made with.
    """
    from ovseg_cli.profiles import PROFILES, weights_status

    out = common.out
    known = [(profile, weights_status(profile.weights)) for profile in PROFILES.values()]

    def human() -> None:
        for number, (profile, states) in enumerate(known):
            if number:
                out.line()
            _show_profile(common, profile, states)

    out.result([profile_data(*pair) for pair in known], human=human, quiet=list(PROFILES))


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
    for weights in parts:
        fetch_weights(weights, offline=common.options.offline)
    states = weights_status(parts)
    common.out.result(
        profile_data(profile, states),
        human=lambda: _show_profile(common, profile, states),
        quiet=[str(state.path) for state in states],
    )


def _show_profile(common: Common, profile: Profile, states: list[WeightsStatus]) -> None:
    out = common.out
    here = all(state.present for state in states)
    out.line((profile.name, "bold"), ("  ready" if here else "  weights are missing", "green" if here else "yellow"))
    out.line((profile.summary, "dim"))
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
    hint = next((state.fetch_hint for state in states if state.fetch_hint), None)
    if hint is not None:
        out.hint(f"fetch them: {hint}", copyable=True)


def _details(state: WeightsStatus) -> str:
    revision = state.revision.removeprefix("sha256:")[:_SHOWN_REVISION]
    return f"{revision}, {state.licence}"


def profile_data(profile: Profile, states: list[WeightsStatus]) -> dict[str, Any]:
    """A profile as `--json` prints it."""
    from ovseg_cli.profiles import find_weights

    return {
        "name": profile.name,
        "summary": profile.summary,
        "digest": profile.digest,
        "ready": all(state.present for state in states),
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
