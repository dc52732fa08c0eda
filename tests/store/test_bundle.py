"""Classes in one file: what goes in comes out, and a hostile file is refused whatever is wrong with it."""

from __future__ import annotations

import hashlib
import io
import json
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.errors import BundleError, OutputError
from ovseg_cli.store import ClassRecord, Store, archive, bundle, support
from ovseg_cli.store.bundle import Origin, open_bundle, write_bundle
from tests.store.helpers import CLIP, make_class, make_support, read_bundle

ORIGIN = Origin(profile_name="mini", profile_digest="d" * 64, made_by="ovseg 1")
VECTORS = "classes/0000/vectors-00.npy"
PICTURE, MASK = "classes/0000/support/000.png", "classes/0000/support/000.mask.png"


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "good.ovclass"
    write_bundle([make_class("cat", 0), make_class("crème brûlée", 1, supports=1)], path, ORIGIN)
    return path


def assert_same(found: ClassRecord, expected: ClassRecord) -> None:
    for name in ("name", "kind", "kind_source", "seed", "settings", "rejected"):
        assert getattr(found, name) == getattr(expected, name)
    assert {item.digest: item for item in found.extractors} == {item.digest: item for item in expected.extractors}
    for one, two in zip(found.supports, expected.supports, strict=True):
        assert (one.position, one.seed, one.prompt) == (two.position, two.seed, two.prompt)
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(np.rint(one.attribution * 255), np.rint(two.attribution * 255))
        np.testing.assert_array_equal(one.foreground, two.foreground)
        np.testing.assert_array_equal(one.background, two.background)
    for one, two in zip(found.prototypes, expected.prototypes, strict=True):
        for name in ("extractor", "role", "kind", "pixels", "support"):
            assert getattr(one, name) == getattr(two, name)
        half, norm = bundle.half_and_norm(two)
        np.testing.assert_array_equal(one.half, half)
        assert np.linalg.norm(one.vector.astype(np.float64)) == pytest.approx(norm, rel=1e-6)


class TestRoundTrip:
    def test_what_goes_in_comes_out(self, good: Path) -> None:
        expected = [make_class("cat", 0), make_class("crème brûlée", 1, supports=1)]
        for found, given_ in zip(read_bundle(good), expected, strict=True):
            assert_same(found, given_)

    def test_what_can_be_known_without_the_arrays(self, good: Path) -> None:
        with open_bundle(good) as opened:
            assert opened.origin == ORIGIN
            assert [item.name for item in opened.classes] == ["cat", "crème brûlée"]
            assert [item.images for item in opened.classes] == [2, 1]
            assert [item.prototypes for item in opened.classes] == [16, 12]
            assert not any(item.scaled for item in opened.classes)

    def test_same_classes_same_bytes(self, good: Path, tmp_path: Path) -> None:
        """However often they go through a file."""
        write_bundle(iter(read_bundle(good)), tmp_path / "again.ovclass", ORIGIN)
        assert (tmp_path / "again.ovclass").read_bytes() == good.read_bytes()

    def test_of_a_store(self, store: Store, tmp_path: Path) -> None:
        write_bundle([store.read_class("cat")], tmp_path / "cat.ovclass", ORIGIN)
        (record,) = read_bundle(tmp_path / "cat.ovclass")
        with zipfile.ZipFile(tmp_path / "cat.ovclass") as opened:
            for stored in store.supports("cat"):
                for path in (stored.image_path, stored.attribution_path, stored.mask_path):
                    assert opened.read(f"classes/0000/support/{path.name}") == path.read_bytes()
        store.add_class(record, replace=True)
        assert_same(store.read_class("cat"), record)

    def test_odd_but_good_classes(self, tmp_path: Path) -> None:
        bare = ClassRecord(name="bare", kind="stuff", kind_source="clip", seed=-(2**63))
        one = make_class("👩‍🚀 [bold] ' -x", 3, supports=0, extractors=(CLIP,))
        pictured = replace(one, name="p", supports=(replace(make_support(4000, 1, (1, 1)), seed=None),))
        write_bundle([bare, one, pictured], tmp_path / "x", ORIGIN)
        for found, expected in zip(read_bundle(tmp_path / "x"), [bare, one, pictured], strict=True):
            assert_same(found, expected)

    def test_large_pictures_are_scaled_down_and_that_is_told(self, tmp_path: Path) -> None:
        large, small = make_support(0, 0, (300, 600)), make_support(1, 0, (256, 100))
        record = replace(make_class("dog", 0), supports=(large, small))
        write_bundle([record], tmp_path / "x", ORIGIN)
        with open_bundle(tmp_path / "x") as opened:
            assert opened.classes[0].scaled
            shrunk, same = opened.record(0).supports
        assert shrunk.image.shape == (128, 256, 3)
        assert not (shrunk.foreground & shrunk.background).any()
        assert shrunk.foreground.mean() == pytest.approx(large.foreground.mean(), abs=0.03)
        assert shrunk.attribution.mean() == pytest.approx(large.attribution.mean(), abs=0.03)
        np.testing.assert_array_equal(same.image, small.image)
        write_bundle([record], tmp_path / "y", ORIGIN, image_side=2048)
        np.testing.assert_array_equal(read_bundle(tmp_path / "y")[0].supports[0].image, large.image)

    def test_nothing_in_it_is_a_pickle(self, good: Path) -> None:
        with zipfile.ZipFile(good) as opened:
            for name in opened.namelist():
                data = opened.read(name)
                if name.endswith(".npy"):
                    assert np.load(io.BytesIO(data), allow_pickle=False).dtype == np.float16
                else:
                    assert data.startswith(b"{" if name == "manifest.json" else b"\x89PNG")


class TestWritingIsWholeOrNotAtAll:
    def test_a_failure_leaves_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "x.ovclass"
        path.write_bytes(b"before")

        def records() -> Any:
            yield make_class("cat", 0)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_bundle(records(), path, ORIGIN)
        assert path.read_bytes() == b"before"
        assert list(tmp_path.iterdir()) == [path]

    def test_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OutputError):
            write_bundle([make_class()], tmp_path / "file" / "x", ORIGIN)

    @pytest.mark.parametrize(
        ("module", "limit", "value", "says"),
        [
            (bundle, "_MAX_CLASS_PIXELS", 200, "support images of 'cat' are too many: scale"),
            (bundle, "_MAX_CLASS_NUMBERS", 200, "prototypes of 'cat' are too many"),
            (bundle, "_MAX_MANIFEST", 200, "put them into several files"),
            (archive, "MAX_BYTES", 2000, "put the classes into several files"),
            (archive, "MAX_MEMBERS", 3, "put the classes into several files"),
        ],
    )
    def test_what_could_not_be_read_is_not_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, limit: str, value: int, says: str
    ) -> None:
        monkeypatch.setattr(module, limit, value)
        with pytest.raises(BundleError, match=says):
            write_bundle([make_class()], tmp_path / "x", ORIGIN)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "x" * 200_000, "\ud800"])
    def test_settings_that_are_not_fit_for_others(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(BundleError, match="recorded of 'cat' is not fit"):
            write_bundle([replace(make_class(), settings={"note": [text]})], tmp_path / "x", ORIGIN)


# --------------------------------------------------------------------------- hostile files


@dataclass
class Parts:
    """A bundle taken apart; what is changed here is put together again with the right sizes and digests."""

    manifest: dict[str, Any]
    members: dict[str, bytes]
    extra: list[tuple[zipfile.ZipInfo | str, bytes]] = field(default_factory=list)
    compression: int = zipfile.ZIP_STORED
    raw_manifest: bytes | None = None
    keep_digests: bool = False

    @property
    def first(self) -> dict[str, Any]:
        return self.manifest["classes"][0]

    def write(self, path: Path) -> None:
        for name, data in self.members.items():
            if not self.keep_digests and name in self.manifest["members"]:
                self.manifest["members"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        with zipfile.ZipFile(path, "w", self.compression) as opened:
            for name, data in [*self.members.items(), *self.extra]:
                opened.writestr(name, data)
            raw = self.raw_manifest
            opened.writestr("manifest.json", json.dumps(self.manifest).encode() if raw is None else raw)


def take_apart(path: Path) -> Parts:
    with zipfile.ZipFile(path) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    return Parts(json.loads(members.pop("manifest.json")), members)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def png_of(width: int, height: int, data: bytes = b"", *, extra: bytes = b"") -> bytes:
    """A PNG whose header says this size, whatever its data are."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    return head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    body = b"x\x00\x00" + zlib.compress(b"\x00" * 300_000_000)
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def put(parts: Parts, name: str, data: bytes) -> None:
    parts.members[name] = data


def vectors_like(change: Callable[[np.ndarray], Any]) -> Callable[[Parts], None]:
    def apply(parts: Parts) -> None:
        put(parts, VECTORS, npy(change(np.load(io.BytesIO(parts.members[VECTORS])))))

    return apply


def in_first(**changes: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.first.update(changes)


def in_support(**changes: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.first["supports"][0].update(changes)


def in_prototype(**changes: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.first["prototypes"][0].update(changes)


def in_extractor(**changes: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.manifest["extractors"][0].update(changes)


def in_manifest(**changes: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.manifest.update(changes)


def raw(data: bytes) -> Callable[[Parts], None]:
    return lambda parts: setattr(parts, "raw_manifest", data)


def with_npy_header(header: str) -> Callable[[Parts], None]:
    text = header.ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\x00" * 768
    return lambda parts: put(parts, VECTORS, data)


HOSTILE: dict[str, tuple[Callable[[Parts], Any], str]] = {
    # the archive
    "absolute path": (lambda p: p.extra.append(("/etc/cron.d/x", b"x")), "'/etc/cron.d/x', which belongs to no class"),
    "parent path": (lambda p: p.extra.append(("../../x", b"x")), "'../../x', which belongs to no class"),
    "backslashes": (lambda p: p.extra.append(("..\\..\\x", b"x")), "belongs to no class"),
    "drive": (lambda p: p.extra.append(("C:\\x", b"x")), "belongs to no class"),
    "folder": (lambda p: p.extra.append(("classes/", b"")), "not a plain file"),
    "symlink": (lambda p: p.extra.append((entry("x", stat.S_IFLNK | 0o777), b"/etc/passwd")), "not a plain file"),
    "symlink for a member": (
        lambda p: p.extra.append((entry(PICTURE, stat.S_IFLNK | 0o777), p.members.pop(PICTURE))),
        "not a plain file",
    ),
    "device": (lambda p: p.extra.append((entry("x", stat.S_IFCHR | 0o666), b"")), "not a plain file"),
    "member of no class": (lambda p: p.extra.append(("classes/0009/x.npy", b"x")), "belongs to no class"),
    "listed member of no class": (
        lambda p: p.manifest["members"].update({"x": {"bytes": 1, "sha256": "0" * 64}}),
        "its manifest has a member 'x'",
    ),
    "member missing": (lambda p: p.members.pop(MASK), f"it has no member '{MASK}'"),
    "member unlisted": (lambda p: p.manifest["members"].pop(MASK), f"its manifest has no member '{MASK}'"),
    "compressed": (lambda p: setattr(p, "compression", zipfile.ZIP_DEFLATED), "compressed"),
    "zip bomb": (
        lambda p: (put(p, PICTURE, b"\x00" * 50_000_000), setattr(p, "compression", zipfile.ZIP_DEFLATED)),
        "compressed",
    ),
    "wrong digest": (
        lambda p: (setattr(p, "keep_digests", True), p.manifest["members"][MASK].update(sha256="0" * 64)),
        "another SHA-256",
    ),
    "digest that is none": (
        lambda p: (setattr(p, "keep_digests", True), p.manifest["members"][MASK].update(sha256="x")),
        "not a SHA-256",
    ),
    "wrong size": (
        lambda p: (setattr(p, "keep_digests", True), p.manifest["members"][MASK].update(bytes=1)),
        "another size",
    ),
    # the manifest
    "no manifest": (
        lambda p: (setattr(p, "raw_manifest", b""), p.members.clear()),
        "no JSON",
    ),
    "not UTF-8": (raw(b'{"format": "\xff"}'), "no JSON"),
    "not JSON": (raw(b"{"), "no JSON"),
    "JSON of another kind": (raw(b"[1, 2]"), "not one of exported classes"),
    "of another program": (in_manifest(format="x"), "not one of exported classes"),
    "deep list": (raw(b"[" * 100_000), "no JSON|not one of exported"),
    "deep settings": (
        lambda p: p.first["settings"].update(x=json.loads("[" * 100 + "]" * 100)),
        "nested more than 32",
    ),
    "huge number": (raw(b'{"format": ' + b"9" * 5000 + b"}"), "no JSON"),
    "newer format": (in_manifest(version=2), "has the format '2'.*update ovseg"),
    "odd format": (in_manifest(version=[["\x1b"]]), "update ovseg"),
    "no profile": (in_manifest(profile=None), "manifest.profile is not an object"),
    "no classes": (in_manifest(classes=[]), "holds no class|belongs to no class"),
    "classes of another type": (in_manifest(classes={}), "'classes' of type list"),
    "class of another type": (in_manifest(classes=[5]), r"classes\[0\] is not an object"),
    "one class twice": (lambda p: p.manifest["classes"][1].update(name="CAT"), "the class 'cat' twice"),
    "name that stores refuse": (in_first(name="../../x"), "cannot hold"),
    "reserved name": (in_first(name="background"), "belong to no class"),
    "name with escape": (in_first(name="a\x1b[31m"), "control character"),
    "kind": (in_first(kind="animal"), "kind must be one of"),
    "source of the kind": (in_first(kind_source="oracle"), "kind_source must be one of"),
    "seed beyond 64 bits": (in_first(seed=2**64), "beyond 64 bits"),
    "seed that is none": (in_first(seed=True), "'seed' of type int"),
    "rejected": (in_first(rejected=-1), "'rejected' out of bounds"),
    "settings": (in_first(settings=[1]), "'settings' of type dict"),
    "terminal commands in settings": (in_first(settings={"prompt": "\x1b]52;c;x\x07"}), "control character"),
    "half a character": (in_first(settings={"\ud800": 1}), "control character"),
    "endless text": (in_first(settings={"x": "y" * 100_001}), "text of 100001 characters"),
    "infinite number": (
        lambda p: raw(json.dumps(p.manifest).encode().replace(b'"rejected": 1', b'"rejected": 1e999'))(p),
        "not finite",
    ),
    "not a number": (in_first(settings={"x": float("nan")}), "not finite"),
    # extractors
    "extractor twice": (lambda p: p.manifest["extractors"].append(p.manifest["extractors"][0]), "extractor 'c+' twice"),
    "extractor digest": (in_extractor(digest="../x"), "hex digits"),
    "extractor dim": (in_extractor(dim=10**9), "'dim' out of bounds"),
    "extractor dim is another": (in_extractor(dim=25), "not a whole float16 array"),
    "extractor of no list": (in_prototype(extractor=2), "not listed"),
    "too many prototypes": (
        lambda p: (in_extractor(dim=2**20)(p), p.first["prototypes"].extend([p.first["prototypes"][0]] * 64)),
        "too many prototypes",
    ),
    # prototypes
    "role": (in_prototype(role="x"), "role must be one of"),
    "prototype kind": (in_prototype(kind="x"), "kind must be one of"),
    "pixels": (in_prototype(pixels=2**40), "'pixels' out of bounds"),
    "norm zero": (in_prototype(norm=0.0), "has the length 0.0"),
    "norm huge": (in_prototype(norm=1e300), "has the length"),
    "norm a string": (in_prototype(norm="1"), "'norm' of type float"),
    "support of no image": (in_prototype(support=77), "support image 77, which is not there"),
    "one prototype more": (lambda p: p.first["prototypes"].append(p.first["prototypes"][0]), "not a whole float16"),
    "float32": (vectors_like(lambda v: v.astype(np.float32)), "not a whole float16"),
    "big-endian": (vectors_like(lambda v: v.astype(">f2")), "not a whole float16"),
    "other shape": (vectors_like(lambda v: v.T), "not a whole float16"),
    "column order": (vectors_like(np.asfortranarray), "not a whole float16"),
    "NaN": (vectors_like(lambda v: v * np.nan), "not of length 1"),
    "infinity": (vectors_like(lambda v: v * np.float16(np.inf)), "not of length 1"),
    "zero": (vectors_like(lambda v: v * 0), "not of length 1"),
    "not normalised": (vectors_like(lambda v: v * np.float16(2)), "not of length 1"),
    "pickle": (vectors_like(lambda v: np.array([print, {"x": 1}], dtype=object)), "not a whole float16"),
    "npy of another version": (
        lambda p: put(p, VECTORS, p.members[VECTORS].replace(b"NUMPY\x01", b"NUMPY\x02", 1)),
        "not a whole float16",
    ),
    "npy that is none": (lambda p: put(p, VECTORS, b"\x80\x04."), "is no array"),
    "npy cut": (lambda p: put(p, VECTORS, p.members[VECTORS][:-1]), "not a whole float16"),
    "npy with more": (lambda p: put(p, VECTORS, p.members[VECTORS] + b"x"), "not a whole float16"),
    "npy of a giant": (
        with_npy_header("{'descr': '<f2', 'fortran_order': False, 'shape': (99999999999, 99999), }"),
        "not a whole float16",
    ),
    "npy header that is code": (with_npy_header("__import__('os').system('x')"), "is no array"),
    "npy header nested": (with_npy_header("(" * 100), "is no array"),
    # pictures
    "position": (in_support(position=-1), "'position' out of bounds"),
    "position twice": (in_support(position=1), "no class|must be unique"),
    "prompt": (in_support(prompt=5), "'prompt' of type str"),
    "size": (in_support(size=[9, 12, 1]), "impossible size"),
    "size of a giant": (in_support(size=[2**20, 2**20]), "impossible size"),
    "size of many": (
        lambda p: p.first.update(
            supports=[{**p.first["supports"][0], "position": i, "size": [2048, 2048]} for i in range(33)]
        ),
        "pixels together",
    ),
    "size is another": (in_support(size=[9, 13]), "12x9 pixels instead of 13x9"),
    "picture bomb": (lambda p: put(p, PICTURE, png_of(60_000, 60_000)), "60000x60000 pixels instead of 12x9"),
    "picture with a text bomb": (lambda p: put(p, PICTURE, png_of(12, 9, extra=text_bomb())), "bytes|damaged"),
    "picture without data": (lambda p: put(p, PICTURE, png_of(12, 9)), "damaged"),
    "picture that is none": (lambda p: put(p, PICTURE, b"GIF89a" + b"\x00" * 100), "not a PNG"),
    "picture in another mode": (lambda p: put(p, PICTURE, p.members[MASK]), "mode P instead of RGB"),
    "picture that is too large": (lambda p: put(p, PICTURE, p.members[PICTURE] + b"\x00" * 10**6), "at most"),
    "mask without meaning": (
        lambda p: put(p, MASK, p.members[MASK][: p.members[MASK].index(b"IDAT")]),
        "damaged",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(good: Path, tmp_path: Path, case: str) -> None:
    change, says = HOSTILE[case]
    parts = take_apart(good)
    change(parts)
    parts.write(tmp_path / "bad.ovclass")
    with pytest.raises(BundleError, match=says) as caught:
        read_bundle(tmp_path / "bad.ovclass")
    assert str(caught.value).startswith(str(tmp_path / "bad.ovclass"))
    assert str(caught.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ovclass"]


def test_what_is_put_together_unchanged_is_good(good: Path, tmp_path: Path) -> None:
    """Else the table above would prove nothing."""
    take_apart(good).write(tmp_path / "same.ovclass")
    assert_same(read_bundle(tmp_path / "same.ovclass")[0], make_class("cat", 0))


class TestArchivesThatZipfileWouldNotWrite:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "too short"),
            (b"PK", "too short"),
            (b"not a zip archive" * 10, "no zip archive"),
            (b"PK\x05\x06" + b"\x00" * 18, "no manifest"),
            (b"PK\x05\x06" + b"\x00" * 8 + b"\xff" * 8 + b"\x00\x00", "more than 60000 members"),
        ],
    )
    def test_no_archive(self, tmp_path: Path, data: bytes, says: str) -> None:
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(BundleError, match=says):
            open_bundle(tmp_path / "x")

    def test_absent_or_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="No such file"):
            open_bundle(tmp_path / "x")
        with pytest.raises(BundleError, match="directory"):
            open_bundle(tmp_path)

    def test_two_members_of_one_name(self, good: Path, tmp_path: Path) -> None:
        parts = take_apart(good)
        parts.extra.append((PICTURE, b"second"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            parts.write(tmp_path / "x")
        with pytest.raises(BundleError, match=f"two members '{PICTURE}'"):
            open_bundle(tmp_path / "x")

    def test_encrypted(self, good: Path, tmp_path: Path) -> None:
        data = bytearray(good.read_bytes())
        for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            place = data.find(signature)
            data[place + offset] |= 1
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(BundleError, match="encrypted"):
            open_bundle(tmp_path / "x")

    def test_zip64(self, good: Path, tmp_path: Path) -> None:
        data = good.read_bytes()
        (tmp_path / "x").write_bytes(data[:-22] + b"PK\x06\x07" + b"\x00" * 16 + data[-22:])
        with pytest.raises(BundleError, match="GB, or says so"):
            open_bundle(tmp_path / "x")

    def test_a_comment_may_hide_another_end(self, good: Path, tmp_path: Path) -> None:
        data = good.read_bytes()
        (tmp_path / "x").write_bytes(data[:-2] + struct.pack("<H", 4) + b"note")
        with pytest.raises(BundleError, match="its end is missing"):
            open_bundle(tmp_path / "x")

    def test_members_that_overlap(self, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many members that share one place in the file are more than the file is large."""
        monkeypatch.setattr(archive, "MAX_BYTES", good.stat().st_size)
        data = bytearray(good.read_bytes())
        place = -1
        while (place := data.find(b"PK\x01\x02", place + 1)) >= 0:
            data[place + 20 : place + 28] = struct.pack("<II", 9_000, 9_000)
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(BundleError, match="overlap"):
            open_bundle(tmp_path / "x")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_truncated(self, good: Path, tmp_path: Path, share: float) -> None:
        data = good.read_bytes()
        (tmp_path / "x").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(BundleError, match="its end is missing"):
            open_bundle(tmp_path / "x")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_damage_is_refused_or_harmless(good: Path, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Bytes that are flipped, cut out or put in: an error of ours, or the same classes (a time stamp was hit)."""
    chance = random.Random(seed)
    data = bytearray(good.read_bytes())
    for _ in range(chance.randint(1, 4)):
        # Half of the damage goes to the structures at the end: there, most bytes mean something to the reader.
        low = len(data) // 2 if chance.random() < 0.5 else 0
        start = chance.randrange(low, len(data))
        length = chance.choice([0, 1, 1, 2, 8, 100])
        data[start : start + length] = chance.randbytes(chance.choice([length, length, 0, 3]))
    path = tmp_path_factory.mktemp("damage") / "x.ovclass"
    path.write_bytes(data)
    try:
        found = read_bundle(path)
    except BundleError:
        return
    assert_same(found[0], make_class("cat", 0))
    assert_same(found[1], make_class("crème brûlée", 1, supports=1))


def values(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    found = [place]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += values(inner, (*place, key))
    return found


ODD = [None, True, -1, 0, 2**31, 2**63, 1.5, -0.0, 1e308, "", "x", "\x00", "../x", [], [[]], {}, {"x": 1}, "a" * 64]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_odd_values_in_the_manifest(good: Path, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Any value of the manifest, replaced or left out: an error of ours, or classes that a store takes."""
    chance = random.Random(seed)
    parts = take_apart(good)
    *path, last = chance.choice(values(parts.manifest)[1:])
    holder = parts.manifest
    for key in path:
        holder = holder[key]
    if chance.random() < 0.2:
        del holder[last]
    else:
        holder[last] = chance.choice(ODD)
    parts.keep_digests = True
    folder = tmp_path_factory.mktemp("odd")
    parts.write(folder / "x.ovclass")
    try:
        found = read_bundle(folder / "x.ovclass")
    except BundleError:
        return
    for record in found:
        support.encode(record.supports)
        write_bundle([record], folder / "again.ovclass", ORIGIN)


@pytest.mark.slow
def test_memory_stays_with_one_class(tmp_path: Path) -> None:
    record = replace(make_class("c"), supports=tuple(make_support(i, 0, (256, 256)) for i in range(4)))
    write_bundle((replace(record, name=f"class {i}") for i in range(12)), tmp_path / "x", ORIGIN)
    with open_bundle(tmp_path / "x") as opened:
        tracemalloc.start()
        try:
            for found in opened.records():
                assert len(found.supports) == 4
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    one = sum(item.image.nbytes + item.attribution.nbytes + 2 * item.foreground.nbytes for item in record.supports)
    assert peak < 4 * one
