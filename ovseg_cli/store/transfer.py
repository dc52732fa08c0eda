"""Classes from one store into another, by way of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovseg_cli.errors import BundleError, ClassExistsError, OvsegError, ProfileMismatchError, UsageError
from ovseg_cli.names import class_key
from ovseg_cli.store.bundle import DEFAULT_IMAGE_SIDE, Bundle, Origin, write_bundle
from ovseg_cli.store.records import ClassInfo, ClassRecord, ExtractorRecord
from ovseg_cli.store.store import Store, ovseg_version

if TYPE_CHECKING:
    from ovseg_cli.profiles import ExtractorSpec, Profile

IfExists = Literal["error", "skip", "replace"]
"""What to do about a class that the store holds."""


def export_classes(
    store: Store,
    names: Sequence[str],
    path: str | Path,
    *,
    image_side: int = DEFAULT_IMAGE_SIDE,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write classes of a store into one file.

    Args:
        store: The store.
        names: Names of the classes, in any case.
        path: The file; what is there is replaced.
        image_side: Longest side of the support images in the file (see `write_bundle`).
        progress: Told how many classes are written.

    Raises:
        UnknownClassError: If one of the classes is not there; then nothing is written.
        StoreCorruptError: If what the store holds of a class is damaged.
        BundleError: If the classes are too much for one file.
        OutputError: If the file cannot be written.
        DiskFullError: If no space is left.
    """
    known = [store.get_class(name).name for name in names]
    origin = Origin(
        profile_name=store.profile_name, profile_digest=store.profile_digest, made_by=f"ovseg {ovseg_version()}"
    )

    def records() -> Iterator[ClassRecord]:
        for number, name in enumerate(known):
            yield store.read_class(name)
            if progress is not None:
                progress(number + 1)

    write_bundle(records(), path, origin, image_side=image_side)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import is going to do.

    Attributes:
        take: Bundle and place in it of every class that is imported, in order.
        skip: Names that are there already and stay as they are.
        replace: Whether a class that is there is replaced.
    """

    take: tuple[tuple[Bundle, int], ...]
    skip: tuple[str, ...]
    replace: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are imported."""
        return tuple(bundle.classes[number].name for bundle, number in self.take)


def choose_profile(bundles: Sequence[Bundle], store: Store | None, asked: str | None) -> Profile:
    """Give the profile that a store must have to take these classes.

    Args:
        bundles: What is to be imported.
        store: The store, None when it is still to be made.
        asked: The profile that the user wants for a new store, if any.

    Returns:
        The profile of the store if it knows all extractors. A store without classes, or one that is still to be
        made, can also take the profile that the bundles come from.

    Raises:
        ProfileMismatchError: If no profile that the store can have knows all the extractors.
        UsageError: If `asked` is no profile.
    """
    from ovseg_cli.profiles import PROFILES, get_profile, profile_of

    choices = [] if asked is None else [get_profile(asked)]
    if store is not None:
        choices.append(profile_of(store))
    if asked is None and (store is None or not store.class_names()):
        origins = [bundle.origin.profile_name for bundle in bundles]
        choices += [found for found in map(_found, origins) if found is not None]
    for profile in choices:
        if not _unknown_extractors(bundles, profile):
            return profile
    if not choices:
        sources = ", ".join(repr(bundle.origin.profile_name) for bundle in bundles)
        raise ProfileMismatchError(
            f"The classes come from a profile that this ovseg does not know ({sources[:200]}): update ovseg"
        )
    bundle, extractor = _unknown_extractors(bundles, choices[0])[0]
    source = bundle.origin.profile_name
    if source == choices[0].name:
        remedy = "they were made with another version of it, so update ovseg, or make the classes anew"
    elif source in PROFILES:
        remedy = f"import them into a store of that profile: choose another folder with --store, and --profile {source}"
    else:
        remedy = "this ovseg does not know that profile, so update it, or make the classes anew"
    raise ProfileMismatchError(
        f"The classes in {bundle.path} come from profile {source!r}, and their features ({extractor.name!r}, "
        f"{extractor.digest[:16]}) cannot be compared with those of profile {choices[0].name!r}: {remedy}"
    )


def _found(name: str) -> Profile | None:
    """The profile of this name: one of ovseg's, or one of the user's own that is found by its name."""
    from ovseg_cli.profiles import PROFILES
    from ovseg_cli.profiles.own import load_profile, own_files

    if name in PROFILES:
        return PROFILES[name]
    try:
        return load_profile(own_files()[name]) if name in own_files() else None
    except OvsegError:  # one that cannot be used is as good as none here
        return None


def plan_import(bundles: Sequence[Bundle], store: Store | None, if_exists: IfExists) -> ImportPlan:
    """Check the store for each class, and those that are to be imported wholly, their arrays included.

    Args:
        bundles: What is to be imported.
        store: The store, None while there is none.
        if_exists: What to do about a class that the store holds.

    Raises:
        BundleError: If a bundle is not as it should be.
        UsageError: If two files hold the same class.
        ClassExistsError: If a class is there and `if_exists` is "error"; all such names are listed.
    """
    take: list[tuple[Bundle, int]] = []
    existing: list[str] = []
    seen: dict[str, Bundle] = {}
    for bundle in bundles:
        for number, item in enumerate(bundle.classes):
            first = seen.setdefault(class_key(item.name), bundle)
            if first is not bundle:
                raise UsageError(
                    f"Both {first.path} and {bundle.path} hold the class {item.name!r}: import one after the other, "
                    "the second with --if-exists skip or replace"
                )
            if store is not None and store.has_class(item.name):
                existing.append(item.name)
                if if_exists == "skip":
                    continue
            take.append((bundle, number))
    if existing and if_exists == "error":
        raise ClassExistsError(
            f"The store already holds {', '.join(map(repr, existing))}: add --if-exists skip to keep what is there, "
            "or --if-exists replace to take the imported in its place"
        )
    for bundle, number in take:
        bundle.record(number)
    return ImportPlan(tuple(take), tuple(existing) if if_exists == "skip" else (), if_exists == "replace")


def import_classes(store: Store, plan: ImportPlan, *, progress: Callable[[int], None] | None = None) -> list[ClassInfo]:
    """Store the planned classes in one transaction: all of them, or none.

    Where a class comes from is added to its settings: a list under "imported", the latest import last.

    Args:
        store: The store; its profile must be one that `choose_profile` gives.
        plan: From `plan_import`.
        progress: Told how many classes are stored.

    Raises:
        ProfileMismatchError: If the store's profile does not know one of the extractors.
        BundleError: If a file has changed since it was checked.
        ClassExistsError: If another process has added one of the classes meanwhile.
        StoreError: If the store cannot be written.
        DiskFullError: If no space is left; the store is then as before.
    """
    specs = _extractors_of(choose_profile([bundle for bundle, _ in plan.take], store, None))

    def records() -> Iterator[ClassRecord]:
        for done, (bundle, number) in enumerate(plan.take):
            yield _imported(bundle, number, specs)
            if progress is not None:
                progress(done + 1)

    return store.add_classes(records(), replace=plan.replace)


def _imported(bundle: Bundle, number: int, specs: dict[str, ExtractorSpec]) -> ClassRecord:
    """Read a class and note where it comes from; of its extractors, what our own profile says of them is kept."""
    record = bundle.record(number)
    note: dict[str, Any] = {
        "file": bundle.path.name,
        "profile": bundle.origin.profile_name,
        "made_by": bundle.origin.made_by,
        "images": "scaled down" if bundle.classes[number].scaled else "as they were made",
    }
    earlier = record.settings.get("imported")
    return replace(
        record,
        settings={**record.settings, "imported": [*(earlier if isinstance(earlier, list) else ()), note]},
        extractors=tuple(
            ExtractorRecord(
                name=specs[item.digest].name,
                digest=item.digest,
                dim=specs[item.digest].dim,
                spec=specs[item.digest].record(),
            )
            for item in record.extractors
        ),
    )


def _extractors_of(profile: Profile) -> dict[str, ExtractorSpec]:
    """The extractors that a profile knows, by digest."""
    return {extractor.digest: extractor for extractor in profile.known_extractors}


def _unknown_extractors(bundles: Sequence[Bundle], profile: Profile) -> list[tuple[Bundle, ExtractorRecord]]:
    """The extractors of bundles that a profile does not know.

    Raises:
        BundleError: If a bundle gives an extractor that the profile knows another number of features.
    """
    known = _extractors_of(profile)
    unknown = []
    for bundle in bundles:
        for extractor in bundle.extractors:
            spec = known.get(extractor.digest)
            if spec is None:
                unknown.append((bundle, extractor))
            elif spec.dim != extractor.dim:
                raise BundleError(
                    f"{bundle.path} cannot be imported: it says that {extractor.name!r} makes {extractor.dim} numbers "
                    f"per vector, and it makes {spec.dim}; ask for another copy of the file"
                )
    return unknown
