"""Classes from one store into another."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.errors import BundleError, ClassExistsError, ProfileMismatchError, UnknownClassError, UsageError
from ovseg_cli.profiles import ExtractorSpec, get_profile
from ovseg_cli.store import ClassRecord, ExtractorRecord, PrototypeRecord, Store
from ovseg_cli.store.bundle import Bundle, Origin, open_bundle, write_bundle
from ovseg_cli.store.transfer import ImportPlan, choose_profile, export_classes, import_classes, plan_import
from tests.store.helpers import make_support

MINI, SD15 = get_profile("mini"), get_profile("sd15")
CHANGED = replace(MINI.extractors[0], timestep=7)


def real_class(name: str, seed: int = 0, extractors: tuple[ExtractorSpec, ...] = MINI.extractors) -> ClassRecord:
    """A class of noise by extractors that a profile has."""
    rng = np.random.default_rng([seed, *name.encode()])
    return ClassRecord(
        name=name,
        kind="thing",
        kind_source="clip",
        seed=seed,
        settings={"steps": 4},
        extractors=tuple(
            ExtractorRecord(name=item.name, digest=item.digest, dim=item.dim, spec=item.record()) for item in extractors
        ),
        supports=(make_support(0, seed), make_support(1, seed)),
        prototypes=tuple(
            PrototypeRecord(
                extractor=item.digest,
                role=role,
                kind="instance",
                vector=rng.standard_normal(item.dim).astype(np.float32) * 5,
                pixels=9,
                support=position,
            )
            for item in extractors
            for role in ("fg", "bg")
            for position in (0, 1)
        ),
    )


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "source", profile=MINI)
    for name in ("cat", "crème brûlée", "dog"):
        store.add_class(real_class(name))
    return store


@pytest.fixture
def target(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "target", profile=MINI)
    store.add_class(real_class("dog", seed=9))
    return store


@contextmanager
def opened(*paths: Path) -> Iterator[list[Bundle]]:
    with ExitStack() as stack:
        yield [stack.enter_context(open_bundle(path)) for path in paths]


def bundle_of(path: Path, *records: ClassRecord, profile: str = "mini") -> Path:
    write_bundle(records, path, Origin(profile_name=profile, profile_digest="a" * 64, made_by="ovseg 1"))
    return path


def state(store: Store) -> tuple[object, ...]:
    files = {path: path.stat().st_mtime_ns for path in (store.path / "support").rglob("*")}
    return (*store.classes(), store.vector_revision, store.profile_name, tuple(sorted(files.items())))


def test_from_store_to_store(source: Store, target: Store, tmp_path: Path) -> None:
    told: list[int] = []
    export_classes(source, ["CAT", "crème brûlée"], tmp_path / "x.ovclass", progress=told.append)
    with opened(tmp_path / "x.ovclass") as bundles:
        assert choose_profile(bundles, target, None).name == "mini"
        infos = import_classes(target, plan_import(bundles, target, "error"), progress=told.append)
    assert told == [1, 2, 1, 2]
    assert [info.name for info in infos] == ["cat", "crème brûlée"]
    assert target.class_names() == ["dog", "cat", "crème brûlée"]
    for name in ("cat", "crème brûlée"):
        one, two = source.read_class(name), target.read_class(name)
        for extractor in MINI.extractors:
            np.testing.assert_array_equal(
                source.prototypes([name], extractor.digest).vectors, target.prototypes([name], extractor.digest).vectors
            )
        for first, second in zip(source.supports(name), target.supports(name), strict=True):
            for field in ("image_path", "attribution_path", "mask_path"):
                assert getattr(first, field).read_bytes() == getattr(second, field).read_bytes()
        assert [item.pixels for item in one.prototypes] == [item.pixels for item in two.prototypes]
        assert (two.kind, two.kind_source, two.seed) == (one.kind, one.kind_source, one.seed)
        (note,) = two.settings.pop("imported")
        assert two.settings == one.settings
        assert (note["file"], note["profile"], note["images"]) == ("x.ovclass", "mini", "as they were made")
        assert note["made_by"].startswith("ovseg ")
    assert target.health().ok


def test_the_way_of_a_class_is_kept(source: Store, target: Store, tmp_path: Path) -> None:
    with opened(bundle_of(tmp_path / "one", replace(source.read_class("cat"), settings={"imported": "x"}))) as bundles:
        import_classes(target, plan_import(bundles, target, "error"))
    export_classes(target, ["cat"], tmp_path / "two")
    with opened(tmp_path / "two") as bundles:
        import_classes(source, plan_import(bundles, source, "replace"))
    assert [note["file"] for note in source.get_class("cat").settings["imported"]] == ["one", "two"]


def test_same_store_same_bytes(source: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_classes(source, source.class_names(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_export_of_an_unknown_class_writes_nothing(source: Store, tmp_path: Path) -> None:
    with pytest.raises(UnknownClassError):
        export_classes(source, ["cat", "zebra"], tmp_path / "x")
    assert not (tmp_path / "x").exists()


class TestIfExists:
    @pytest.fixture
    def path(self, source: Store, tmp_path: Path) -> Path:
        export_classes(source, ["cat", "dog"], tmp_path / "x")
        return tmp_path / "x"

    def test_error(self, target: Store, path: Path) -> None:
        before = state(target)
        with opened(path) as bundles, pytest.raises(ClassExistsError, match=r"'dog'.*skip.*replace"):
            plan_import(bundles, target, "error")
        assert state(target) == before

    def test_skip(self, target: Store, path: Path) -> None:
        with opened(path) as bundles:
            plan = plan_import(bundles, target, "skip")
            assert (plan.names, plan.skip) == (("cat",), ("dog",))
            import_classes(target, plan)
        assert [info.seed for info in target.classes()] == [9, 0]

    def test_replace(self, target: Store, path: Path) -> None:
        with opened(path) as bundles:
            import_classes(target, plan_import(bundles, target, "replace"))
        assert [(info.name, info.seed) for info in target.classes()] == [("dog", 0), ("cat", 0)]
        assert target.health().orphans == ()

    def test_one_class_in_two_files(self, source: Store, path: Path, tmp_path: Path) -> None:
        export_classes(source, ["dog"], tmp_path / "y")
        with opened(path, tmp_path / "y") as bundles, pytest.raises(UsageError, match=r"Both .*hold the class 'dog'"):
            plan_import(bundles, None, "replace")

    def test_a_class_that_another_process_adds_meanwhile(self, target: Store, path: Path) -> None:
        target.remove_classes(["dog"])
        with opened(path) as bundles:
            plan = plan_import(bundles, target, "error")
            Store.open(target.path).add_class(real_class("dog", seed=5))
            before = state(target)
            with pytest.raises(ClassExistsError):
                import_classes(target, plan)
        assert state(target) == before
        assert target.health().orphans == ()


def damaged(path: Path) -> Path:
    """The same file with its last class's last picture cut; sizes and digests say so too."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    name = max(name for name in members if name.endswith(".mask.png"))
    members[name] = members[name][:60]
    manifest["members"][name] = {"bytes": len(members[name]), "sha256": hashlib.sha256(members[name]).hexdigest()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in {**members, "manifest.json": json.dumps(manifest)}.items():
            archive.writestr(member, data)
    path.write_bytes(buffer.getvalue())
    return path


def test_damage_in_the_last_class_is_found_before_the_first_is_stored(target: Store, tmp_path: Path) -> None:
    path = damaged(bundle_of(tmp_path / "x", real_class("cat"), real_class("bird")))
    before = state(target)
    with opened(path) as bundles, pytest.raises(BundleError, match=r"'bird': .*damaged"):
        plan_import(bundles, target, "error")
    assert state(target) == before


def test_a_file_that_changes_after_the_check(target: Store, tmp_path: Path) -> None:
    path = damaged(bundle_of(tmp_path / "x", real_class("cat"), real_class("bird")))
    before = state(target)
    with opened(path) as bundles:
        plan = ImportPlan(take=((bundles[0], 0), (bundles[0], 1)), skip=(), replace=False)
        with pytest.raises(BundleError):
            import_classes(target, plan)
    assert state(target) == before
    assert target.health().orphans == ()


class TestProfiles:
    def test_extra_extractors_are_known_too(self, target: Store, tmp_path: Path) -> None:
        record = real_class("cat", extractors=(*MINI.extractors, MINI.extra_extractors[0]))
        with opened(bundle_of(tmp_path / "x", record, profile="other")) as bundles:
            import_classes(target, plan_import(bundles, target, "error"))
        assert len(target.get_class("cat").extractors) == 3

    def test_another_profile_is_refused_by_its_name(self, target: Store, tmp_path: Path) -> None:
        path = bundle_of(tmp_path / "x", real_class("cat", extractors=SD15.extractors[1:2]), profile="sd15")
        before = state(target)
        with opened(path) as bundles:
            for asked in (None, "mini"):
                with pytest.raises(ProfileMismatchError, match=r"profile 'sd15'.*'clip'.*'mini'.*--profile sd15"):
                    choose_profile(bundles, target, asked)
            with pytest.raises(ProfileMismatchError):
                import_classes(target, plan_import(bundles, target, "error"))
        assert state(target) == before

    def test_another_version_of_the_extractors(self, target: Store, tmp_path: Path) -> None:
        with opened(bundle_of(tmp_path / "x", real_class("cat", extractors=(CHANGED,)))) as bundles:
            for store in (target, None):
                with pytest.raises(ProfileMismatchError, match="another version of it"):
                    choose_profile(bundles, store, None)

    def test_a_profile_that_nobody_knows(self, target: Store, tmp_path: Path) -> None:
        path = bundle_of(tmp_path / "x", real_class("cat", extractors=(CHANGED,)), profile="huge")
        with opened(path) as bundles:
            with pytest.raises(ProfileMismatchError, match=r"profile 'huge'.*does not know that profile"):
                choose_profile(bundles, target, None)
            with pytest.raises(ProfileMismatchError, match="does not know \\('huge'\\)"):
                choose_profile(bundles, None, None)

    def test_a_new_store_takes_the_profile_of_the_classes(self, tmp_path: Path) -> None:
        path = bundle_of(tmp_path / "x", real_class("cat", extractors=SD15.extractors[1:2]), profile="sd15")
        empty = Store.open(tmp_path / "empty", profile=MINI)
        with opened(path) as bundles:
            assert choose_profile(bundles, None, None).name == "sd15"
            assert choose_profile(bundles, empty, None).name == "sd15"
            with pytest.raises(ProfileMismatchError):
                choose_profile(bundles, None, "mini")
            with pytest.raises(UsageError, match="Unknown profile"):
                choose_profile(bundles, None, "huge")
            adopted = Store.open(empty.path, profile=choose_profile(bundles, empty, None))
            import_classes(adopted, plan_import(bundles, adopted, "error"))
        assert Store.open(empty.path).profile_name == "sd15"
        assert adopted.class_names() == ["cat"]

    def test_a_known_digest_with_another_length(self, target: Store, tmp_path: Path) -> None:
        liar = replace(real_class("cat").extractors[0], dim=3)
        record = ClassRecord(
            name="cat",
            kind="thing",
            kind_source="user",
            seed=0,
            extractors=(liar,),
            prototypes=(
                PrototypeRecord(extractor=liar.digest, role="fg", kind="mean", vector=np.ones(3, np.float32), pixels=1),
            ),
        )
        with opened(bundle_of(tmp_path / "x", record)) as bundles:
            for store in (target, None):
                with pytest.raises(BundleError, match="3 numbers per vector"):
                    choose_profile(bundles, store, None)

    def test_what_is_said_of_an_extractor_is_our_own(self, target: Store, tmp_path: Path) -> None:
        record = real_class("cat", extractors=MINI.extra_extractors[:1])
        liar = replace(record.extractors[0], name="harmless", spec={"x": 1})
        with opened(bundle_of(tmp_path / "x", replace(record, extractors=(liar,)))) as bundles:
            import_classes(target, plan_import(bundles, target, "error"))
        (known,) = target.read_class("cat").extractors
        assert (known.name, known.spec["kind"]) == ("dino", "vit-key")


@pytest.mark.slow
def test_segmentation_is_the_same_with_imported_classes(tmp_path: Path) -> None:
    from ovseg_cli.segmentation.segmenter import Segmenter
    from tests.mini import example_scene, mini_class, mini_models

    names = ["cat", "apple"]
    with Store.open(tmp_path / "one", profile="mini") as one, Store.open(tmp_path / "two", profile="mini") as two:
        for name in names:
            one.add_class(mini_class(name))
        export_classes(one, names, tmp_path / "x")
        with opened(tmp_path / "x") as bundles:
            import_classes(two, plan_import(bundles, two, "error"))
        first, second = (Segmenter(mini_models(), store, names).segment(example_scene(8)) for store in (one, two))
    assert first.method == "prototype"
    assert len(first.shares) == 3
    np.testing.assert_array_equal(first.ids, second.ids)
