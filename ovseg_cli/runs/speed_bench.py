"""How fast a profile works on this machine, stage by stage: what ``ovseg bench`` does.

Everything that is timed is the product's own: classes are made and stored, folders are segmented and written, pictures
are labelled by a method, as the commands do it. Each run has pictures of its own, so that nothing is known of them yet;
what a long run knows (networks, words) is known here too. The stages are those that the code names itself
(`ovseg_cli.stages`).
"""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count as counting
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from PIL import Image

from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.methods.catalogue import METHODS, check_method, methods_of
from ovseg_cli.names import unknown_choice
from ovseg_cli.profiles import Profile, Weights, weights_status
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.profiles.weights import fetch_command
from ovseg_cli.runs.classes import add_classes, plan_classes
from ovseg_cli.runs.manifest import library_versions
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.request import Request
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.runs.speed import peak_memory
from ovseg_cli.runs.speed_report import ATTRIBUTED, PLAIN, Report, Section, StageTime
from ovseg_cli.runs.worker import BATCH_ON_GPU, ReadySegmenter
from ovseg_cli.segmentation.recipe import Recipe, make_recipe
from ovseg_cli.stages import Observer, observed
from ovseg_cli.store import Store
from ovseg_cli.store.records import ClassRecord, ExtractorRecord, PrototypeKind, PrototypeRecord, Role, SupportRecord

if TYPE_CHECKING:
    import torch

    from ovseg_cli.models import Models
    from ovseg_cli.segmentation.segmenter import Segmenter

PARTS = ("add-class", "segment", "methods")
"""What can be measured."""

TIMED = ("gem", "cliper-coarse", "proxyclip", "cliper", "diffsegclust", "specclust")
"""Methods that are timed on a GPU when nobody names others."""

TIMED_ON_CPU = ("gem", "proxyclip", "cliper", "diffsegclust")
"""The same on a CPU: each kind of work once."""

NAMES = (
    *("cat", "dog", "car", "apple", "tree", "bird", "boat", "bottle", "bus", "chair"),
    *("cow", "horse", "sheep", "train", "bicycle", "motorbike", "airplane", "person", "sofa", "table"),
)
"""Class names; those of more classes are numbered."""

LARGE, SMALL = (500, 375), (256, 192)
"""(width, height) of pictures for models of photographs, and for small ones."""

REPEATS, REPEATS_ON_CPU, COUNT_ON_CPU, STEPS_ON_CPU = 3, 2, 2, 4
"""What is measured when nobody says. On a CPU: enough to see every stage, in less than a minute with small models.
Pictures go alone there, as they do in a folder run when nobody says otherwise."""

MAX_SIDE, ENOUGH_SECONDS = 8192, 0.02
"""The peak is measured with larger and larger matrices, up to this side or until a product takes so long."""

log = logging.getLogger("ovseg_cli")

Job = Callable[[], object]
"""A run, ready to be timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What is measured; None means by the profile and the device.

    Attributes:
        what: Some of `PARTS`.
        methods: Which methods, for "methods".
        count: Support images of a class.
        steps: Steps of the sampler.
        classes: How many classes are looked for.
        size: (width, height) of the pictures.
        batch: Pictures that go together; 1 for none.
        repeats: How often each run is timed.
    """

    what: tuple[str, ...] = PARTS
    methods: tuple[str, ...] | None = None
    count: int | None = None
    steps: int | None = None
    classes: int = 20
    size: tuple[int, int] | None = None
    batch: int | None = None
    repeats: int | None = None


def check_settings(settings: BenchSettings, profile: Profile) -> None:
    """Refuse what cannot be measured.

    Raises:
        UsageError: There is no such part or method, or the method is none that reads words, or the profile lacks one of
            its networks.
    """
    for part in settings.what:
        if part not in PARTS:
            raise unknown_choice("part", part, PARTS, heading="Parts")
    for method in settings.methods or ():
        check_method(method)
        if method == "auto" or not METHODS[method].reads_words:
            raise UsageError(
                f"{method} is not timed by itself here: name methods that read words, such as gem. Prototypes are "
                "what --what segment times."
            )
        if not METHODS[method].trained and method not in methods_of(profile):
            raise UsageError(f"The profile {profile.name!r} has not all networks of {method}. Leave it out.")


def check_weights(profile: Profile, settings: BenchSettings, device: str) -> None:
    """Refuse to measure networks whose weights are not here.

    Raises:
        WeightsError: Some are missing; both remedies are named.
    """
    needed = _needed(profile, settings, device)
    missing = [state for state in weights_status(needed, profile) if not state.present]
    if missing:
        commands = dict.fromkeys(fetch_command(w, profile) for w in needed if w.model_id in {m.repo for m in missing})
        raise WeightsError(
            f"Weights of the profile {profile.name!r} are not on this machine: "
            f"{', '.join(state.repo for state in missing)}. Measure with random ones of the same size, which needs no "
            f"download: --random-weights. Or fetch them once: {' and '.join(commands)}"
        )


def _needed(profile: Profile, settings: BenchSettings, device: str) -> tuple[Weights, ...]:
    """The weights that are loaded."""
    needed: list[Weights] = []
    if {"add-class", "segment"} & set(settings.what):
        needed += profile.weights
    if "methods" in settings.what:
        networks = {network for method in _methods(profile, settings, device) for network in METHODS[method].networks}
        proxy = profile.proxy_extractor
        needed.append(profile.clip.weights)
        needed += [profile.generator.weights] if "generator" in networks else []
        needed += [proxy.weights] if "proxy" in networks and proxy is not None else []
    return tuple(dict.fromkeys(needed))


def _methods(profile: Profile, settings: BenchSettings, device: str) -> tuple[str, ...]:
    """Those that are timed."""
    if settings.methods is not None:
        return settings.methods
    has = methods_of(profile)
    return tuple(method for method in (TIMED_ON_CPU if device == "cpu" else TIMED) if method in has)


def run_bench(
    profile: Profile,
    load_models: Callable[[], Models],
    settings: BenchSettings,
    *,
    weights: str,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Measure.

    Args:
        profile: Which models.
        load_models: Makes them ready.
        settings: What is measured.
        weights: What they are, for the record.
        progress: Told how many sections of how many are done, and which comes next.

    Raises:
        UsageError: See `check_settings`.
        GenerationError: The class that is made has too few usable pictures.
    """
    check_settings(settings, profile)
    tell = progress or (lambda _done, _total, _next: None)
    tell(0, 0, "loading")
    began = time.perf_counter()
    models = load_models()
    _load_all(models, _needed(profile, settings, models.device))
    loading = time.perf_counter() - began
    filled = _filled(settings, profile, models.device)
    sections: list[Section] = []
    with (
        _hushed(),
        tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder,
        Store.open(Path(folder, "store"), profile=profile) as store,
    ):
        planned = list(_Bench(models, store, filled, Path(folder)).sections())
        for name, make in planned:
            tell(len(sections), len(planned), name)
            sections.append(make())
    return Report(
        profile=profile.name,
        weights=weights,
        precision=models.computes_in,
        device=models.device,
        machine=machine(models.device),
        versions=_versions(),
        settings={name: value for name, value in asdict(filled).items() if value is not None},
        peak=matrix_peak(models.device, models.dtype),
        loading=loading,
        process_bytes=peak_memory("cpu"),
        sections=tuple(sections),
    )


def _filled(settings: BenchSettings, profile: Profile, device: str) -> BenchSettings:
    """The settings with what the profile and the device say."""
    generator, slow = profile.generator, device == "cpu"
    count = min(generator.count, COUNT_ON_CPU) if slow else generator.count
    steps = min(generator.steps, STEPS_ON_CPU) if slow else generator.steps
    return replace(
        settings,
        count=settings.count or count,
        steps=settings.steps or steps,
        size=settings.size or (LARGE if generator.image_size >= 256 else SMALL),
        batch=settings.batch or (1 if slow else BATCH_ON_GPU),
        repeats=settings.repeats or (REPEATS_ON_CPU if slow else REPEATS),
        methods=_methods(profile, settings, device) if "methods" in settings.what else None,
    )


def _load_all(models: Models, needed: Sequence[Weights]) -> None:
    """Load the networks, so that it is not part of a run; what is not among the usual ones comes in the first run."""
    profile = models.profile
    for weights in needed:
        if weights == profile.generator.weights:
            _ = models.generator
        elif weights == profile.clip.weights:
            _ = models.clip
        elif any(spec.weights == weights and spec.kind == "vit-key" for spec in profile.known_extractors):
            models.vit(weights)


@contextmanager
def _hushed() -> Iterator[None]:
    """Leave out remarks about pictures of noise; with -v they are there."""
    before = log.level
    if before == logging.WARNING:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


class _Bench:
    """The sections of a report.

    Args:
        models: The networks.
        store: An empty one, for classes.
        settings: With nothing left open.
        folder: For pictures and label maps.
    """

    def __init__(self, models: Models, store: Store, settings: BenchSettings, folder: Path) -> None:
        self._models = models
        self._store = store
        self._settings = settings
        self._folder = folder
        self._numbers = counting()
        self._last: Segmenter | None = None
        self._filled = False
        self._names = NAMES[: settings.classes]
        self._names += tuple(f"thing {number}" for number in range(len(self._names), settings.classes))

    def sections(self) -> Iterator[tuple[str, Callable[[], Section]]]:
        """Each with its name, and what measures it."""
        what, count = self._settings.what, self._settings.count or 1
        if "add-class" in what:
            yield "add-class", partial(self._measured, "add-class", count, self._class_made)
            # Drawing by itself, as often and as many as go together there, with and without attribution maps.
            together = min(count, self._models.profile.generator.batch_size)
            for name, attribution in ((PLAIN, False), (ATTRIBUTED, True)):
                yield name, partial(self._measured, name, together, partial(self._drawn, together, attribution))
        if "segment" in what:
            for name, together in self._ways("segment"):
                yield name, partial(self._measured, name, together, partial(self._folder_run, together))
        for method in (self._settings.methods or ()) if "methods" in what else ():
            for name, together in self._ways(method):
                yield name, partial(self._measured, name, together, partial(self._labelled, method, together))

    def _ways(self, name: str) -> list[tuple[str, int]]:
        """One picture alone, and several together."""
        batch = self._settings.batch or 1
        return [(name, 1), *([(f"{name}, {batch} together", batch)] if batch > 1 else [])]

    # ------------------------------------------------------------------ runs, each with pictures of its own

    def _class_made(self) -> Job:
        """A class is made and stored, as ``ovseg add-class`` does it."""
        from ovseg_cli.prototypes.build import SupportSettings

        name = NAMES[next(self._numbers) % len(NAMES)]
        plan = plan_classes(self._store, [name], "replace")
        settings = SupportSettings(count=self._settings.count, steps=self._settings.steps)
        return lambda: list(add_classes(self._store, self._models, plan, settings))

    def _drawn(self, together: int, attribution: bool) -> Job:
        """A batch of support images is drawn."""
        generator = self._models.profile.generator
        name, first = NAMES[0], next(self._numbers) * together
        arguments: dict[str, Any] = {
            "seeds": range(first, first + together),
            "image_size": generator.image_size,
            "steps": self._settings.steps,
            "guidance": generator.guidance,
            "negative_prompt": generator.negative_prompt,
            "sampler": generator.sampler,
            "spacing": generator.spacing,
        }
        prompt, backbone = fill_prompt(generator.prompt, name), self._models.generator
        if not attribution:
            return partial(backbone.draw, prompt, **arguments)
        return partial(backbone.generate, prompt, name, **arguments, min_attention_grid=generator.min_attention_grid)

    def _folder_run(self, together: int) -> Job:
        """A folder is segmented by prototypes and written, as ``ovseg segment`` does it, when all is loaded."""
        folder = self._folder / f"run-{next(self._numbers)}"
        (folder / "pictures").mkdir(parents=True)
        for number in range(together):
            self._picture().save(folder / "pictures" / f"{number}.jpg")
        self._fill_store()
        recipe = self._recipe("prototype")
        plan = plan_run([str(folder / "pictures")], folder / "labels", Request.by(recipe))
        segmenter = self._segmenter(recipe)
        ready = ReadySegmenter(segmenter, self._models.device, self._models.computes_in)
        store, profile = self._store, self._models.profile
        return lambda: run_folder(plan, lambda: ready, store, profile, recorded=False, batch=together)

    def _labelled(self, method: str, together: int) -> Job:
        """Pictures that are open are labelled by a method."""
        segmenter = self._segmenter(self._recipe(method))
        # A diffusion model that looks for names has room for few in its prompt, and finds each of them somewhere.
        known = list(self._names[:3]) if METHODS[method].reads == "names" else None
        pictures = [self._picture() for _ in range(together)]
        if together == 1:
            return partial(segmenter.segment, pictures[0], known)
        return partial(segmenter.segment_batch, pictures, [known] * together)

    def _recipe(self, method: str) -> Recipe:
        models = self._models
        return make_recipe(self._store, models.profile, self._names, method=method, precision=models.precision)

    def _segmenter(self, recipe: Recipe) -> Segmenter:
        """As a run has it from picture to picture; that of the last recipe is kept."""
        if self._last is None or self._last.digest != recipe.digest:
            from ovseg_cli.segmentation.segmenter import Segmenter

            self._last = Segmenter.by_recipe(self._models, recipe, texts=self._store)
        return self._last

    def _picture(self) -> Image.Image:
        """Smooth noise, another one each time: pure noise would vanish when it is resized."""
        random = np.random.default_rng(next(self._numbers))
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        return coarse.resize(self._settings.size or LARGE, Image.Resampling.BICUBIC)

    def _fill_store(self) -> None:
        """Give every class as many prototypes as the profile would have made, with directions by chance."""
        if self._filled:
            return
        extractors = tuple(
            ExtractorRecord(name=spec.name, digest=spec.digest, dim=spec.dim, spec=spec.record())
            for spec in self._models.profile.extractors
        )
        random = np.random.default_rng(0)
        self._store.add_classes((self._class(name, extractors, random) for name in self._names), replace=True)
        self._filled = True

    def _class(self, name: str, extractors: tuple[ExtractorRecord, ...], random: np.random.Generator) -> ClassRecord:
        generator = self._models.profile.generator
        picture = np.zeros((8, 8, 3), np.uint8)
        kinds: dict[PrototypeKind, int] = {"mean": 1, "instance": generator.count, "part": generator.parts}
        prototypes = [
            PrototypeRecord(
                extractor=extractor.digest,
                role=role,
                kind=kind,
                vector=random.standard_normal(extractor.dim, dtype=np.float32),
                pixels=1,
            )
            for extractor in extractors
            for role in get_args(Role)
            for kind, number in kinds.items()
            for _ in range(number)
        ]
        support = SupportRecord(
            position=0,
            seed=None,
            prompt="",
            image=picture,
            attribution=np.zeros((8, 8), np.float32),
            foreground=picture[..., 0] > 0,
            background=picture[..., 0] == 0,
        )
        return ClassRecord(
            name=name,
            kind="thing",
            kind_source="user",
            seed=0,
            extractors=extractors,
            supports=(support,),
            prototypes=tuple(prototypes),
        )

    # ------------------------------------------------------------------ the clock

    def _measured(self, name: str, pictures: int, prepare: Callable[[], Job]) -> Section:
        """Time a kind of run. What it is given is prepared before the clock starts.

        The first run warms up: it loads what is left to be loaded, and reads what later ones know. Operations are
        counted in the last one, which is like those that are timed; counting would slow these down.
        """
        from torch.utils.flop_counter import FlopCounterMode

        device, repeats = self._models.device, range(self._settings.repeats or REPEATS)
        wait = waiter(device)
        self._timed(prepare(), wait)
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        observers = [Observer(wait) for _ in repeats]
        seen = [self._timed(prepare(), wait, observer) for observer in observers]
        free = seen if device == "cpu" else [self._timed(prepare(), wait) for _ in repeats]
        device_bytes = peak_memory(device) if device.startswith("cuda") else None
        counter = FlopCounterMode(display=False, custom_mapping=_attention_of_cpus())
        counted = Observer(wait, counter.get_total_flops)
        job = prepare()
        with _quiet_tracker(), counter, observed(counted):
            job()
        stages = dict.fromkeys(stage for observer in observers for stage in observer.seconds)
        return Section(
            name=name,
            pictures=pictures,
            seconds=tuple(free),
            observed=tuple(seen),
            operations=counter.get_total_flops(),
            stages=tuple(
                StageTime(
                    name=stage,
                    seconds=tuple(observer.seconds.get(stage, 0.0) for observer in observers),
                    calls=round(sum(observer.calls.get(stage, 0) for observer in observers) / len(observers)),
                    operations=counted.operations.get(stage, 0),
                )
                for stage in stages
            ),
            device_bytes=device_bytes,
        )

    @staticmethod
    def _timed(job: Job, wait: Callable[[], None], observer: Observer | None = None) -> float:
        wait()
        began = time.perf_counter()
        with nullcontext() if observer is None else observed(observer):
            job()
        wait()
        return time.perf_counter() - began


def waiter(device: str) -> Callable[[], None]:
    """What waits until a device has done all that it was given."""
    import torch

    if device.startswith("cuda"):
        return partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device == "mps" else lambda: None


def _attention_of_cpus() -> dict[Any, Any]:
    """What torch's counter lacks: the operations of a CPU's fused attention, counted as those of the others."""
    import torch
    from torch.utils.flop_counter import sdpa_flop_count

    def attention(queries: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(queries, keys, values))

    return {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}


@contextmanager
def _quiet_tracker() -> Iterator[None]:
    """The counter warns of walks that stop midway, as ours do; it needs to know nothing of modules here."""
    tracker = logging.getLogger("torch.utils.module_tracker")
    before = tracker.disabled
    tracker.disabled = True
    try:
        yield
    finally:
        tracker.disabled = before


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a product of two large square matrices: the best of several sizes."""
    import torch

    wait, best, side = waiter(device), 0.0, 512
    while side <= MAX_SIDE:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(6):  # the first one warms up
            wait()
            began = time.perf_counter()
            left @ right
            wait()
            seconds.append(time.perf_counter() - began)
        best = max(best, 2 * side**3 / min(seconds[1:]))
        if min(seconds) > ENOUGH_SECONDS:
            break
        side *= 2
    return best


def machine(device: str) -> dict[str, Any]:
    """What this machine is, as JSON-able data."""
    import torch

    cuda = device.startswith("cuda")
    gpu = torch.cuda.get_device_properties(device) if cuda else None
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _memory_of_machine(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": None if gpu is None else gpu.name,
        "gpu_memory": None if gpu is None else gpu.total_memory,
        "cuda": torch.version.cuda if cuda else None,
    }


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _memory_of_machine() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    """Of ovseg and of the libraries that do the work."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"ovseg": version("ovseg"), **library_versions()}
    for name in ("faiss-gpu", "faiss-cpu"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
