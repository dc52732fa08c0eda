from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ovseg_cli.errors import ImageError, LabelError
from ovseg_cli.files.labels import (
    LabelMap,
    is_background,
    is_void,
    read_label,
    read_labelmap,
    read_mask,
    voc_colour,
    write_label,
    write_labelmap,
)
from ovseg_cli.names import class_key
from tests.files.painting import in_colours, voc_palette
from tests.files.test_images import chunk

RNG = np.random.default_rng(3)
ALL_IDS = np.arange(256, dtype=np.uint8).reshape(16, 16)
ANIMALS = LabelMap.from_classes(["cat", "dog"])

# The colours of the PASCAL VOC development kit, in its order, and its "void".
VOC = """0,0,0 128,0,0 0,128,0 128,128,0 0,0,128 128,0,128 0,128,128 128,128,128 64,0,0 192,0,0 64,128,0
192,128,0 64,0,128 192,0,128 64,128,128 192,128,128 0,64,0 128,64,0 0,192,0 128,192,0 0,64,128"""


class TestPalette:
    def test_first_colours_are_those_of_voc(self):
        assert [",".join(map(str, voc_colour(i))) for i in range(21)] == VOC.split()
        assert voc_colour(255) == (224, 224, 192)

    def test_no_colour_comes_twice(self):
        assert len({voc_colour(index) for index in range(4096)}) == 4096

    @pytest.mark.parametrize("index", [-1, 1 << 24])
    def test_range(self, index):
        with pytest.raises(ValueError, match=str(index)):
            voc_colour(index)


class TestLabelMap:
    def test_of_classes(self):
        assert ANIMALS.names == ("background", "cat", "dog")
        assert ANIMALS.ids == (0, 1, 2)
        assert ANIMALS.colours == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
        assert (ANIMALS.id_of("DOG"), ANIMALS.name_of(2), ANIMALS.max_id) == (2, "dog", 2)
        assert (ANIMALS.id_of("cow"), ANIMALS.name_of(9)) == (None, None)
        assert ANIMALS.background_id == 0
        assert list(ANIMALS)[1] == (1, "cat", (128, 0, 0))

    def test_names_are_compared_as_people_do(self):
        labels = LabelMap(("crème  brûlée", "猫"), (1, 2))
        assert labels.id_of("CRE\u0300ME BRU\u0302LE\u0301E") == 1
        assert labels.id_of(" 猫 ") == 2
        assert class_key("Straße") == class_key("STRASSE")
        dialytika = LabelMap(("\u0390",), (1,))  # one letter, whose capital is written as two
        assert dialytika.id_of("\u03aa\u0301") == 1

    def test_contradictions(self):
        with pytest.raises(LabelError, match="both 'cat' and 'Cat'"):
            LabelMap.from_classes(["cat", "Cat"])
        with pytest.raises(LabelError, match="both 'cat' and 'cat'"):
            LabelMap.from_classes(["cat"] * 2)
        with pytest.raises(LabelError, match="id 1 to two names"):
            LabelMap(("cat", "dog"), (1, 1))
        with pytest.raises(LabelError, match="70000"):
            LabelMap(("cat",), (70000,))
        with pytest.raises(ValueError, match="2 names, 1 ids"):
            LabelMap(("cat", "dog"), (1,))

    def test_several_ids_of_one_name(self):
        labels = LabelMap(("cat", "dog", "Cat"), (1, 2, 7))
        assert (labels.ids_of("CAT"), labels.id_of("cat"), labels.ids_of("cow")) == ((1, 7), 1, ())

    def test_background_is_taken(self):
        with pytest.raises(LabelError, match="'Background' is the name of label 0"):
            LabelMap.from_classes(["cat", "Background"])

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("background", True), ("_background_", True), ("__Background__", True), ("backgrounds", False)],
    )
    def test_is_background(self, name, expected):
        assert is_background(name) is expected

    @pytest.mark.parametrize(
        "name", ["void", "Unlabeled", "__ignore__", "unlabelled", "no_data", "No Data", "<ignored>"]
    )
    def test_is_void(self, name):
        assert is_void(name)

    @pytest.mark.parametrize("name", ["background", "avoid", "ignorance", "label", "data"])
    def test_is_not_void(self, name):
        assert not is_void(name)


class TestLabelMapFile:
    def read(self, folder: Path, text: str) -> LabelMap:
        (folder / "labelmap.txt").write_bytes(text.encode())
        return read_labelmap(folder / "labelmap.txt")

    def test_what_we_write_is_what_cvat_writes(self, tmp_path):
        write_labelmap(tmp_path / "labelmap.txt", ANIMALS)
        assert (tmp_path / "labelmap.txt").read_text() == (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
        )

    @given(
        st.lists(
            st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12),
            unique_by=class_key,
            max_size=8,
        ).filter(lambda names: not any(is_background(name) for name in names))
    )
    def test_round_trip_of_any_names(self, tmp_path_factory, names):
        path = tmp_path_factory.mktemp("map") / "labelmap.txt"
        labels = LabelMap.from_classes(names)
        write_labelmap(path, labels)
        assert read_labelmap(path) == labels

    @pytest.mark.parametrize("name", ["chocolate glazed donut", "crème brûlée", "猫", "a:b", "x:1,2,3", "#1 fan", "7"])
    def test_round_trip(self, tmp_path, name):
        write_labelmap(tmp_path / "m.txt", LabelMap.from_classes([name]))
        assert read_labelmap(tmp_path / "m.txt").id_of(name) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::",
            "\ufeff# label:color_rgb:parts:actions\r\nbackground:0,0,0::\r\ncat:128,0,0:a,b:c\r\n\r\ndog:0,128,0\r\n",
            "background:::\ncat:::\ndog:::\n",
            "0: background\n1: cat\n2: dog",
            "0:background\n1:cat\n2:dog",
            "id,name\n0,background\n1,cat\n2,dog",
            "0\tbackground\n1\tcat\n2\tdog\n",
            "2,dog,0,128,0\n1,cat,128,0,0\n0,background,0,0,0",
            "background\ncat\ndog\n",
            "background:0,0,0::\n#bird:128,0,0::\ncat:128,0,0::\ndog:0,128,0::",
            "name,r,g,b\nbackground,0,0,0\ncat,128,0,0\ndog,0,128,0\n",
            "Pixel Value, Class\n0, background\n1, cat\n2, dog\n",
            "value;name\n0;background\n1;cat\n2;dog\n",
            "Idx\tRatio\tTrain\tName\n0\t0.1\t7\tbackground\n1\t0.15\t11664\tcat\n2\t0.1\t6046\tdog\n",
            "0 0 0\tbackground\n128 0 0\tcat\n0 128 0\tdog\n",
            "0 0 0 background\n128 0 0 cat\n0 128 0 dog\n",
            "background 0 0 0\ncat 128 0 0\ndog 0 128 0\n",
            "background:#000000::\ncat:#800000::\ndog:#008000::\n",
            "background,#000000\ncat,#800000\ndog,#008000\n",
            "0 background\n1 cat\n2 dog\n",
            "0:background:0,0,0\n1:cat:128,0,0\n2:dog:0,128,0\n",
            "background=0\ncat=1\ndog=2\n",
            "background: 0\ncat: 1\ndog: 2\n",
            '0,"background"\n1,"cat"\n2,"dog"\n',
            "path: x\nnc: 3\nnames:\n  0: background\n  1: cat\n  2: dog\n",
            "names: [background, cat, dog]\n",
            "names:\n- background\n- cat\n- dog\n",
            '{"id2label": {"0": "background", "1": "cat", "2": "dog"}}',
            '{"background": 0, "cat": 1, "dog": 2}',
            'item {\n id: 0\n name: "background" }\nitem {\n name: \'cat\'\n id: 1 # }\n}\nitem { id: 2 name: "dog" }',
        ],
    )
    def test_forms(self, tmp_path, text):
        labels = self.read(tmp_path, text)
        assert {(i, name, colour) for i, name, colour in labels} == set(ANIMALS)

    def test_lists_of_labelme_begin_below_0(self, tmp_path):
        labels = self.read(tmp_path, "__ignore__\n_background_\ncat\n")
        assert [(i, name) for i, name, _ in labels] == [(255, "__ignore__"), (0, "_background_"), (1, "cat")]
        assert self.read(tmp_path, "void\nbackground\ncat\n").id_of("cat") == 2

    def test_several_ids_of_one_name(self, tmp_path):
        assert self.read(tmp_path, "1: wall\n2: Wall\n3: door\n").ids_of("wall") == (1, 2)

    def test_words_of_yaml_are_names(self, tmp_path):
        assert self.read(tmp_path, "names:\n  0: no\n  1: 007\n  2: null\n").names == ("no", "007", "null")

    @pytest.mark.parametrize(
        "text",
        [
            # Mapillary's config.json
            '{"labels": [{"color": [9, 8, 7], "readable": "Bird", "name": "animal--bird"}, '
            '{"color": [1, 2, 3], "name": "Curb"}], "version": "1.1"}',
            # Datumaro's dataset_meta.json
            '{"label_map": {"0": "Bird", "1": "Curb"}, "segmentation_colors": [[9, 8, 7], [1, 2, 3]]}',
            # COCO's categories, with colours
            '{"categories": [{"id": 1, "name": "Curb", "color": "#010203"}, '
            '{"id": 0, "name": "Bird", "color": [9, 8, 7]}]}',
        ],
    )
    def test_objects_and_lists_of_colours_in_json(self, tmp_path, text):
        labels = self.read(tmp_path, text)
        assert sorted((i, name, colour) for i, name, colour in labels) == [
            (0, "Bird", (9, 8, 7)),
            (1, "Curb", (1, 2, 3)),
        ]
        assert not labels.guessed

    def test_an_object_without_a_name_or_a_colour_that_is_none(self, tmp_path):
        with pytest.raises(LabelError, match="line 1 gives no name to an id"):
            self.read(tmp_path, '{"labels": [{"color": [9, 8, 7]}, {"name": "a"}]}')
        with pytest.raises(LabelError, match="line 1 has no colour; write three numbers, or #rrggbb"):
            self.read(tmp_path, '{"labels": [{"name": "a", "color": "blue"}]}')

    def test_names_of_several_words_with_numbers(self, tmp_path):
        assert self.read(tmp_path, "0 class 1\n1 class 2\n").names == ("class 1", "class 2")
        assert self.read(tmp_path, "class 1\nclass 2\n").ids == (0, 1)

    def test_utf_16_with_a_mark(self, tmp_path):
        (tmp_path / "m.txt").write_bytes("0: background\r\n1: Hündchen\r\n".encode("utf-16"))
        assert read_labelmap(tmp_path / "m.txt").id_of("hündchen") == 1

    def test_colours_that_nobody_gave_are_known(self, tmp_path):
        assert self.read(tmp_path, "cat\ndog\n").given_colours == {}
        assert self.read(tmp_path, "cat:9,9,9::\ndog:::\n").given_colours == {(9, 9, 9): (0,)}

    def test_ids_need_not_run(self, tmp_path):
        labels = self.read(tmp_path, "7: cat\n300: dog, small\n")
        assert (labels.id_of("cat"), labels.id_of("dog, small")) == (7, 300)
        with pytest.raises(ValueError, match=r"0, 1, 2"):
            write_labelmap(tmp_path / "m.txt", labels)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("background:0,0,0::\ncat 1,2,3\n", r"line 2: 'cat 1,2,3' is not of the form name:R,G,B"),
            ("0: a\n\n1 b\n", "line 3: '1 b' is not of the form id: name"),
            ("a:0,0,0::\nb:0,0,256::\n", "line 2.*out of range"),
            ("0: a\n99999: b\n", "line 2.*out of range"),
            ("0: a\n0: b\n", "contradictory.*id 0 to two names"),
            ("cat\nCat\n", "contradictory.*'cat' and 'Cat'"),
            ("a,b,c\nd,e,f\n", "line 1: 'a,b,c' is not of a known form: write name:R,G,B"),
            ("cat, dog, bird\n", "not of a known form"),
            ("0 0 0 0 1 2 3 cat\n", "line 1.*not of a known form"),
            ("cat\n3\tdog\n", "line 1: 'cat' is not of the form id, name"),
            ("name,r,g,b\ncat,1,2\n", "line 2.*3 columns, and the first line names 4"),
            ("names:\n  0: a\n  x: b\n", "line 3 gives no name to an id"),
            ("names: [a, b\n", "no YAML or JSON"),
            ('item { id: x name: "a" }', "line 1.*not of the form item"),
            ("# nothing\n\n", "names no label"),
            ("", "names no label"),
        ],
    )
    def test_mistakes_are_named_with_their_line(self, tmp_path, text, message):
        with pytest.raises(LabelError, match=message):
            self.read(tmp_path, text)

    def test_missing_or_no_text(self, tmp_path):
        with pytest.raises(LabelError, match="does not exist"):
            read_labelmap(tmp_path / "m.txt")
        (tmp_path / "m.txt").write_bytes(b"caf\xe9:1,2,3::")
        with pytest.raises(LabelError, match="not UTF-8"):
            read_labelmap(tmp_path / "m.txt")
        with pytest.raises(LabelError, match="cannot be read"):
            read_labelmap(tmp_path)


class TestLabelFile:
    def test_palette_keeps_every_id(self, tmp_path):
        wide = LabelMap.from_classes([f"c{i}" for i in range(254)])
        write_label(tmp_path / "a.png", ALL_IDS, wide)
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == "P"
            assert np.asarray(image.convert("RGB"))[0, 1].tolist() == [128, 0, 0]
            # The trap this guards against: the brightness of the colours is not the ids.
            assert (np.asarray(image.convert("L")) != ALL_IDS).any()
        result = read_label(tmp_path / "a.png")
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, ALL_IDS)

    def test_palette_has_the_colours_of_the_map(self, tmp_path):
        labels = LabelMap(("background", "cat"), (0, 1), ((9, 9, 9), (10, 200, 30)))
        write_label(tmp_path / "a.png", np.array([[0, 1, 255]]), labels)
        with Image.open(tmp_path / "a.png") as image:
            assert np.asarray(image.convert("RGB"))[0].tolist() == [[9, 9, 9], [10, 200, 30], [224, 224, 192]]

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
    def test_any_integer_type(self, tmp_path, dtype):
        ids = np.array([[0, 1], [2, 255]], dtype=dtype)[:, ::-1]  # and not contiguous
        write_label(tmp_path / "a.png", ids, ANIMALS)
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), ids)

    def test_many_classes_need_16_bits(self, tmp_path):
        labels = LabelMap.from_classes([f"c{i}" for i in range(300)])
        ids = RNG.integers(0, 301, (20, 30)).astype(np.uint16)
        write_label(tmp_path / "a.png", ids, labels)
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == "I;16"
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), ids)
        write_label(tmp_path / "few.png", np.zeros((2, 2), dtype=np.uint8), labels)
        with Image.open(tmp_path / "few.png") as image:
            assert image.mode == "I;16", "one bit depth per folder, not per image"

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (np.array([[0, 3]]), r"0\.\.2 \(or 255\), got 0\.\.3"),
            (np.array([[-1, 0]]), r"got -1\.\.0"),
            (np.array([0, 1]), r"\(H, W\)"),
            (np.array([[0.0, 1.0]]), "float64"),
        ],
    )
    def test_wrong_ids(self, tmp_path, ids, message):
        with pytest.raises(ValueError, match=message):
            write_label(tmp_path / "a.png", ids, ANIMALS)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    def test_grey_is_read_as_ids(self, tmp_path, suffix):
        Image.fromarray(ALL_IDS).save(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read_label(tmp_path / f"a{suffix}"), ALL_IDS)

    def test_16_and_32_bit_grey(self, tmp_path):
        ids = np.array([[0, 255, 256, 65535]])
        Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "a.png")
        Image.fromarray(ids.astype(np.int32)).save(tmp_path / "b.tif")
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), ids)
        np.testing.assert_array_equal(read_label(tmp_path / "b.tif"), ids)
        Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "c.tif")
        with pytest.raises(LabelError, match="0 to 70000"):
            read_label(tmp_path / "c.tif")

    def test_1_bit_is_0_and_1(self, tmp_path):
        bits = RNG.random((9, 13)) > 0.5
        Image.fromarray(bits).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), bits)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    @pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
    def test_few_bits_are_not_spread(self, tmp_path, bits, colour_type):
        """A grey PNG of 4 bits holds 0..15; decoders spread them to 0..255."""
        ids = np.arange(2**bits, dtype=np.uint8)[None].repeat(2, axis=0)

        def packed(row: np.ndarray) -> bytes:
            unpacked = np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]
            return b"\0" + np.packbits(unpacked.ravel()).tobytes()

        header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, colour_type, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        if colour_type == 3:
            data += chunk(b"PLTE", voc_palette(2**bits))
        data += chunk(b"IDAT", zlib.compress(b"".join(map(packed, ids)))) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(data)
        np.testing.assert_array_equal(read_label(tmp_path / "a.png"), ids)

    def test_palette_with_transparency_and_grey_with_alpha(self, tmp_path):
        image = Image.fromarray(ALL_IDS)
        image.putpalette(voc_palette())
        image.save(tmp_path / "p.png", transparency=0)
        np.testing.assert_array_equal(read_label(tmp_path / "p.png"), ALL_IDS)
        Image.fromarray(np.stack([ALL_IDS, 255 - ALL_IDS], axis=2)).save(tmp_path / "la.png")
        np.testing.assert_array_equal(read_label(tmp_path / "la.png"), ALL_IDS)

    def test_orientation(self, tmp_path):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).save(tmp_path / "a.png", exif=exif)
        assert read_label(tmp_path / "a.png").tolist() == [[0], [1], [2]]

    def test_jpeg_is_refused(self, tmp_path):
        Image.fromarray(ALL_IDS).save(tmp_path / "a.jpg")
        with pytest.raises(LabelError, match=r"JPEG.*save labels as PNG"):
            read_label(tmp_path / "a.jpg")

    def test_float_is_refused(self, tmp_path):
        Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(LabelError, match="F image; labels must be"):
            read_label(tmp_path / "a.tif")

    def test_damaged(self, tmp_path):
        write_label(tmp_path / "a.png", RNG.integers(0, 3, (64, 64)), ANIMALS)
        data = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(data[: len(data) // 2 + 500])
        with pytest.raises(ImageError, match=r"a\.png is damaged"):
            read_label(tmp_path / "a.png")
        with pytest.raises(ImageError, match="does not exist"):
            read_label(tmp_path / "b.png")


SHADES = LabelMap(
    ("background", "cat", "dog", "cow"), (0, 1, 2, 3), ((0, 0, 0), (255, 255, 255), (9, 9, 9), (128, 0, 0))
)


class TestPalettesInAnotherOrder:
    IDS = np.array([[0, 1, 2, 2], [2, 1, 0, 255]], dtype=np.uint8)

    def save(self, path: Path, indices: object, colours: list, **options: object) -> Path:
        image = Image.fromarray(np.array(indices, dtype=np.uint8))
        image.putpalette([value for colour in colours for value in colour])
        image.save(path, **options)
        return path

    @pytest.mark.parametrize("bits", [2, 4, 8])
    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
    def test_the_colours_of_the_map_count(self, tmp_path, bits, order):
        places = {0: order[0], 1: order[1], 2: order[2], 255: order[3]}
        colours = [voc_colour(i) for i in sorted(places, key=places.get)]
        indices = np.vectorize(places.get)(self.IDS)
        path = self.save(tmp_path / "a.png", indices, colours, bits=bits)
        np.testing.assert_array_equal(read_label(path, ANIMALS), self.IDS)

    def test_what_other_tools_make_of_our_files(self, tmp_path):
        write_label(tmp_path / "a.png", self.IDS, ANIMALS)
        with Image.open(tmp_path / "a.png") as image:
            image.convert("RGB").quantize(16).save(tmp_path / "quantised.png")
            image.convert("RGB").save(tmp_path / "rgb.png")
            image.convert("RGBA").save(tmp_path / "rgba.png")
        for name in ("quantised", "rgb", "rgba"):
            np.testing.assert_array_equal(read_label(tmp_path / f"{name}.png", ANIMALS), self.IDS, name)

    def test_without_colours_in_the_map_it_is_refused(self, tmp_path):
        path = self.save(tmp_path / "a.png", [[0, 1]], [voc_colour(2), voc_colour(1)])
        with pytest.raises(LabelError, match=r"contradicts .* \(0, 128, 0\), which is that of 'dog'.*save it in grey"):
            read_label(path, LabelMap(("cat", "dog"), (1, 2)))

    def test_colours_of_nothing_known_are_refused(self, tmp_path):
        path = self.save(tmp_path / "a.png", [[0, 1, 2]], [(0, 0, 0), (50, 60, 70), (0, 128, 0)])
        with pytest.raises(
            LabelError, match=r"a\.png: the palette contradicts .*calls 1 'cat' with the colour \(128, 0, 0"
        ):
            read_label(path, ANIMALS)

    @pytest.mark.parametrize(
        ("colours", "labels"),
        [
            ([(50, 60, 70), (1, 200, 3), (0, 9, 0)], LabelMap(("cat", "dog"), (1, 2))),
            ([(0, 0, 0), (128, 0, 0), (0, 128, 0)], LabelMap(("cat", "dog"), (1, 2))),
            ([(0, 0, 0), (1, 1, 1), (2, 2, 2)], ANIMALS),
            (
                [(0, 0, 0), (128, 0, 0), (0, 128, 0)],
                LabelMap(("a", "b", "c"), (0, 1, 2), ((5, 5, 5), (6, 0, 0), (7, 7, 0))),
            ),
        ],
        ids=["colours of no meaning", "VOC and no colours", "ramp of greys", "VOC for a map of other colours"],
    )
    def test_palettes_of_those_who_count_in_ids(self, tmp_path, colours, labels):
        path = self.save(tmp_path / "a.png", [[0, 1, 2, 0]], colours)
        assert read_label(path, labels).tolist() == [[0, 1, 2, 0]]

    def test_ignore_may_have_any_colour(self, tmp_path):
        """The palette of this file ends before 255, which viewers show black: that of the background."""
        header = struct.pack(">IIBBBBB", 3, 1, 8, 3, 0, 0, 0)
        parts = [(b"IHDR", header), (b"PLTE", voc_palette(2)), (b"IDAT", zlib.compress(b"\0\0\1\xff"))]
        (tmp_path / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))
        )
        assert read_label(tmp_path / "a.png", ANIMALS).tolist() == [[0, 1, 255]]

    def test_two_indices_of_one_colour_are_not_merged(self, tmp_path):
        path = self.save(tmp_path / "a.png", [[0, 1, 7]], [voc_colour(i) if i < 7 else (0, 0, 0) for i in range(8)])
        assert read_label(path, ANIMALS).tolist() == [[0, 1, 7]], "7 is for who reads on: ignored, or without a name"

    def test_greys_of_the_map(self, tmp_path):
        Image.fromarray(np.array([[0, 255, 9]], dtype=np.uint8)).save(tmp_path / "grey.png")
        assert read_label(tmp_path / "grey.png", SHADES).tolist() == [[0, 1, 2]]
        Image.fromarray(np.array([[0, 3, 2]], dtype=np.uint8)).save(tmp_path / "ids.png")
        assert read_label(tmp_path / "ids.png", SHADES).tolist() == [[0, 3, 2]]
        Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "both.png")
        with pytest.raises(LabelError, match=r"both\.png is grey, and its values \(0, 255\) are ids .* as well"):
            read_label(tmp_path / "both.png", SHADES)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_white_is_zero(self, tmp_path, bits):
        top = 2**bits - 1
        ids = np.array([[0, 1, 2]])
        stored = (top - ids).astype(np.uint16 if bits == 16 else np.uint8)
        Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={262: 0})
        with Image.open(tmp_path / "a.tif") as image:
            assert image.tag_v2[262] == 0
        if bits == 8:  # Pillow turns these around while it writes
            stored = ids.astype(np.uint8)
            Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={262: 0})
        np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), ids)


class TestMasks:
    def test_black_and_one_other_colour(self, tmp_path):
        for white in ((255, 255, 255), (0, 200, 3)):
            Image.fromarray(np.array([[[0, 0, 0], white]], dtype=np.uint8)).save(tmp_path / "a.png")
            assert read_mask(tmp_path / "a.png").tolist() == [[0, 1]]

    def test_more_colours_say_what_to_do(self, tmp_path):
        Image.fromarray(np.array([[[0, 0, 0], [1, 1, 1], [2, 2, 2]]], dtype=np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(
            LabelError, match=r"has 3 colours.*labelmap\.txt with the colour.*black \(background\)"
        ) as error:
            read_mask(tmp_path / "a.png")
        assert "--label-map" not in str(error.value)

    def test_black_behind_another_colour_of_a_palette(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1, 1]], dtype=np.uint8))
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(tmp_path / "a.png")
        assert read_mask(tmp_path / "a.png").tolist() == [[1, 0, 0]]
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(tmp_path / "a.png")
        assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 1]]


class TestColourLabels:
    IDS = np.array([[0, 1, 2, 2], [2, 1, 0, 255]])

    def save(self, folder: Path, labelmap: LabelMap = ANIMALS) -> Path:
        Image.fromarray(in_colours(self.IDS, labelmap)).save(folder / "a.png")
        return folder / "a.png"

    def test_colours_are_looked_up(self, tmp_path):
        np.testing.assert_array_equal(read_label(self.save(tmp_path), ANIMALS), self.IDS)

    def test_alpha_is_not_looked_at(self, tmp_path):
        rgb = in_colours(self.IDS, ANIMALS)
        alpha = np.full((*self.IDS.shape, 1), 7, dtype=np.uint8)
        Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_label(tmp_path / "a.png", ANIMALS), self.IDS)

    def test_ids_beyond_a_byte(self, tmp_path):
        labels = LabelMap(("cat",), (300,), ((1, 2, 3),))
        Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png")
        assert (read_label(tmp_path / "a.png", labels) == 300).all()

    def test_void_of_the_map_wins(self, tmp_path):
        labels = LabelMap(("background", "cat", "dog", "void"), (0, 1, 2, 9), (*ANIMALS.colours, (224, 224, 192)))
        assert read_label(self.save(tmp_path), labels)[1, 3] == 9

    def test_without_a_map(self, tmp_path):
        with pytest.raises(LabelError, match=r"a\.png is an RGB image with 4 colour.*--label-map FILE"):
            read_label(self.save(tmp_path))

    def test_unknown_colour_is_named_with_its_share(self, tmp_path):
        path = self.save(tmp_path, LabelMap(("background", "cat", "dog"), (0, 1, 2), ((0, 0, 0), (1, 1, 1), (5, 6, 7))))
        with pytest.raises(LabelError, match=r"2 colour\(s\) are not in .* \(5, 6, 7\), covers 37\.50 % of the pixels"):
            read_label(path, ANIMALS)

    def test_ambiguous_colour(self, tmp_path):
        labels = LabelMap(("background", "cat", "dog"), (0, 1, 2), ((0, 0, 0), (128, 0, 0), (128, 0, 0)))
        with pytest.raises(LabelError, match="'cat' and 'dog'"):
            read_label(self.save(tmp_path), labels)


def test_ids_that_a_map_does_not_hold_have_vocs_colours():
    labels = LabelMap(("cat",), (1,), ((7, 8, 9),))
    assert (labels.colour_of(1), labels.colour_of(300)) == ((7, 8, 9), voc_colour(300))
    assert labels.palette()[:3].tolist() == [[0, 0, 0], [7, 8, 9], list(voc_colour(2))]
