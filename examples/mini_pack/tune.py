"""What settings of the profile ``mini`` are worth, on pictures that no figure is given for.

    python -m examples.mini_pack.tune gem cliper
    python -m examples.mini_pack.tune prefilter --pictures 48 --seed 51

Every line is one setting in another's place, everything else as the profile has it. The seeds of the pictures are 50
and above; those of the figures (`examples.mini_pack.evaluate`, `make methods`, `examples.ablation`) are below.
The profile's settings were chosen on 16 pictures of seed 50, GEM's temperature and streams on 16 of seed 51 too.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.mini_pack.evaluate import SEGMENTED, _filtered, _pictures, _scores, _temporary_store
from examples.mini_pack.glyphs import GlyphSet
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, find_thing
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles import ClipSpec, Profile, get_profile
from ovseg_cli.profiles.specs import DenseDefaults, PrefilterSpec, Tuning
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store

FIRST_SEED: Final = 50
SUPPORT_SEED: Final = 900_000

WINDOWS: Final = {
    "128 96 64 48 and all": ((128, 64), (96, 48), (64, 32), (48, 24)),
    "128 96 64 and all": ((128, 64), (96, 48), (64, 32)),
    "96 64 and all": ((96, 48), (64, 32)),
    "96 64 48 and all": ((96, 48), (64, 32), (48, 24)),
    "64 and all": ((64, 32),),
    "64 48 and all": ((64, 32), (48, 24)),
    "64 dense and all": ((64, 16),),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting.

    Attributes:
        label: What it is.
        method: Which method runs with it.
        profile: The profile with it.
        options: Further options.
    """

    label: str
    method: str
    profile: Profile
    options: SegmentOptions = field(default_factory=SegmentOptions)


def _clip(profile: Profile, **changes: object) -> Profile:
    return replace(profile, clip=replace(profile.clip, **changes))  # type: ignore[arg-type]


def _dense(profile: Profile, **changes: object) -> Profile:
    dense: DenseDefaults | None = profile.clip.dense
    assert dense is not None, "the mini profile has settings of its own"
    return _clip(profile, dense=replace(dense, **changes))  # type: ignore[arg-type]


def _tuned(profile: Profile, **values: float) -> Profile:
    spec: ClipSpec = profile.clip
    methods = ("cliper", "cliper-coarse")
    others = tuple(item for item in spec.tuned if item.methods != methods)
    before = next((dict(item.values) for item in spec.tuned if item.methods == methods), {})
    return _clip(profile, tuned=(*others, Tuning(methods=methods, values=tuple((before | values).items()))))


def _prefilter(profile: Profile, **changes: object) -> Profile:
    spec: PrefilterSpec | None = profile.prefilter
    assert spec is not None, "the mini profile has a pre-filter"
    return replace(profile, prefilter=replace(spec, **changes))  # type: ignore[arg-type]


def gem(mini: Profile) -> Iterator[Trial]:
    """GEM's temperature, and how much of other tokens it takes."""
    for count in (2, 3, 4):
        yield Trial(f"streams {count}", "clipsurgery", _clip(mini, streams=count))
        yield Trial(f"streams {count}, temperature 10", "gem", _clip(mini, streams=count, gem_temperature=10.0))
    for count, value in itertools.product((3, 4), (2.5, 4.0, 5.5)):
        yield Trial(f"streams {count}, temperature {value:g}", "gem", _clip(mini, streams=count, gem_temperature=value))


def windows(mini: Profile) -> Iterator[Trial]:
    """The windows of the methods that read words."""
    for method in ("gem", "cliper-coarse"):
        for label, value in WINDOWS.items():
            yield Trial(label, method, _dense(mini, windows=value))
        yield Trial("128 96 64 48", method, _dense(mini, whole_image=False))


def scale(mini: Profile) -> Iterator[Trial]:
    """The factor on cosines."""
    for method in ("gem", "cliper-coarse"):
        for value in (20.0, 40.0, 60.0, 100.0):
            yield Trial(f"logit scale {value:g}", method, _dense(mini, logit_scale=value))


def cliper(mini: Profile) -> Iterator[Trial]:
    """CLIPer's thresholds, and that of its refinement."""
    for score in (0.5, 0.7, 0.9):
        for threshold in (0.2, 0.4, 0.6):
            wanted = _tuned(mini, score_threshold=score, threshold=threshold)
            yield Trial(f"score {score:g}, threshold {threshold:g}", "cliper-coarse", wanted)


def refine(mini: Profile) -> Iterator[Trial]:
    """How CLIPer's maps are refined."""
    yield Trial("not", "cliper-coarse", mini)
    for value in (0.6, 0.8, 0.9):
        for size in (64, 96, 128):
            generator = replace(mini.generator, refine_threshold=value, read_size=size)
            yield Trial(f"threshold {value:g}, read at {size}", "cliper", replace(mini, generator=generator))


def clusters(mini: Profile) -> Iterator[Trial]:
    """DiffSegClust's regions."""
    for value in (0.03, 0.06, 0.1, 0.2, 0.4):
        generator = replace(mini.generator, cluster_divergence=value)
        yield Trial(f"divergence {value:g}", "diffsegclust", replace(mini, generator=generator))


def prefilter(mini: Profile) -> Iterator[Trial]:
    """Which classes the pre-filter keeps."""
    for margin in (0.02, 0.05, 0.08, 0.12, 0.2):
        yield Trial(f"margin {margin:g}", "prototype", _prefilter(mini, margin=margin))
    for crops in ((3,), (5,), (3, 4)):
        yield Trial(f"crops {crops}", "prototype", _prefilter(mini, crops=crops))


def ensemble(mini: Profile) -> Iterator[Trial]:
    """Which features are matched."""
    for names in (
        ("sd",),
        ("clip",),
        ("clip-token",),
        ("dino",),
        ("sd", "clip"),
        ("sd", "clip-token"),
        ("clip", "dino"),
        ("sd", "clip", "dino"),
        ("sd", "clip", "clip-token"),
    ):
        yield Trial(" + ".join(names), "prototype", mini, SegmentOptions(extractors=names))


def matching(mini: Profile) -> Iterator[Trial]:
    """The windows of prototypes."""
    for label, value in WINDOWS.items():
        wanted = replace(mini, inference=replace(mini.inference, windows=value))
        yield Trial(label.removesuffix(" and all"), "prototype", wanted)


def hybrid(mini: Profile) -> Iterator[Trial]:
    """How much prototypes count beside words."""
    for weight in (0.5, 0.65, 0.8):
        for factor in (30.0, 45.0):
            wanted = replace(mini, hybrid=replace(mini.hybrid, weight=weight, scale=factor))
            yield Trial(f"weight {weight:g}, scale {factor:g}", "hybrid", wanted)


def best(mini: Profile) -> Iterator[Trial]:
    """Which words' method "auto" takes, alone and beside prototypes."""
    for method in ("gem", "cliper-coarse", "clearclip", "agggem"):
        yield Trial("alone", method, mini)
        yield Trial("alone, pre-filtered", method, mini, SegmentOptions(prefilter=True))
    for method in ("gem", "cliper-coarse"):
        yield Trial(f"with {method}", "hybrid", _clip(mini, best=method))


GROUPS: Final[dict[str, Callable[[Profile], Iterator[Trial]]]] = {
    function.__name__: function
    for function in (gem, windows, scale, cliper, refine, clusters, prefilter, ensemble, matching, hybrid, best)
}


def run(group: str, models: Models, store: Store, seed: int, count: int) -> Table:
    """Measure the trials of a group on the same pictures."""
    truth = np.zeros(len(LABEL_NAMES), np.uint8)
    for number, name in enumerate(SEGMENTED, start=1):
        truth[LABEL_IDS[find_thing(name).name]] = number
    pictures = _pictures(GlyphSet(), count, seed, SEGMENTED)
    labels = [truth[picture.labels] for picture in pictures]
    names = ("background", *SEGMENTED)
    table = Table(title=f"{group}: {count} pictures of seed {seed}", box=None)
    for heading in ("method", "setting", "mIoU", "recall, precision"):
        table.add_column(heading)
    for trial in GROUPS[group](models.profile):
        changed = copy.copy(models)
        changed.profile = trial.profile
        segmenter = Segmenter(changed, store, SEGMENTED, method=trial.method, options=trial.options)
        ((miou, _),) = _scores([segmenter], pictures, labels, names)
        filtered = _filtered(changed, pictures, labels, ()) if group == "prefilter" else ()
        note = ", ".join(f"{value:.3f}" for value, _ in filtered)
        table.add_row(trial.method, trial.label, f"{100 * miou:.1f}", note)
        Console().print(trial.method, trial.label, f"{100 * miou:.1f}", note)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the groups asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the pictures (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=24, help="how many (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.seed < FIRST_SEED:
        parser.error(f"seeds below {FIRST_SEED} are those of the figures")
    models = load_models(get_profile("mini"), device="cpu")
    with _temporary_store(models.profile) as store:
        if set(options.groups) & {"prefilter", "ensemble", "matching", "hybrid", "best"}:
            settings = SupportSettings(count=16, seed=SUPPORT_SEED, extractors=("sd", "clip", "dino", "clip-token"))
            for name in SEGMENTED:
                store.add_class(build_class(models, name, settings))
        for group in options.groups:
            Console().print(run(group, models, store, options.seed, options.pictures))


if __name__ == "__main__":
    main()
