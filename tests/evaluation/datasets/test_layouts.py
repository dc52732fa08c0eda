"""Every layout of every data set, in miniature: what is read is what was written."""

from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.evaluation.datasets import DATASETS, open_dataset
from ovseg_cli.evaluation.folder import evaluate_truth
from ovseg_cli.files.labels import write_label
from tests.evaluation.datasets import miniature
from tests.evaluation.datasets.miniature import LEFT_OUT, NOTHING, scene

VOC_NAMES = ["2007_000033", "2007_000042"]
CONTEXT_NAMES = ["2008_000002", "2008_000003"]
COCO_NAMES = ["000000000139", "000000000285"]
ADE_NAMES = ["ADE_val_00000001", "ADE_val_00000002"]
CITY_NAMES = ["frankfurt_000000_000294", "munster_000001_000019"]
ADE847_IDS = [2978, 312, 2420, 2855, 2131]  # wall, building, sky, tree, road


def scenes(names, classes, **options):
    return {name: scene(number, classes, **options) for number, name in enumerate(names)}


def build(root, dataset, form):
    """Write a data set; returns what was written, by name."""
    if dataset in ("voc21", "voc20", "voc20b"):
        made = scenes(VOC_NAMES, 20)
        miniature.voc(root, made, folder=form, grey=form == "SegmentationClassAug")
    elif dataset in ("context60", "context59"):
        made = scenes(CONTEXT_NAMES, 59, unknown=False)
        miniature.context(root, made, form)
    elif dataset == "context459":
        made = scenes(CONTEXT_NAMES, 459, unknown=False)
        miniature.context(root, made, form)
    elif dataset.startswith("coco"):
        made = scenes(COCO_NAMES, 171)
        miniature.coco(root, made, form)
    elif dataset == "ade150":
        made = scenes(ADE_NAMES, 150, unknown=False)
        miniature.ade(root, made, form)
    elif dataset == "ade847":
        made = scenes(ADE_NAMES, 5 if form == "ADE20K" else 847, unknown=False)
        miniature.ade_full(root, made, form, ADE847_IDS)
    else:
        made = scenes(CITY_NAMES, 19)
        miniature.cityscapes(root, made, form)
    return made


LAYOUTS = [
    *(
        (name, folder)
        for name in ("voc21", "voc20", "voc20b")
        for folder in ("SegmentationClass", "SegmentationClassAug")
    ),
    *((name, form) for name in ("context60", "context59") for form in ("mmsegmentation", "CAT-Seg", "detail")),
    *(("context459", form) for form in ("mat", "tif")),
    *(("coco-object", form) for form in ("stuffthingmaps", "annotations", "prepared", "mixed")),
    *(("coco-stuff", form) for form in ("stuffthingmaps", "annotations", "prepared", "mixed", "CAT-Seg")),
    *(("coco-stuff27", form) for form in ("stuffthingmaps", "annotations", "prepared", "mixed", "CAT-Seg")),
    *(("ade150", form) for form in ("ADE20K", "CAT-Seg")),
    *(("ade847", form) for form in ("ADE20K", "CAT-Seg")),
    *(("cityscapes", form) for form in ("trainIds", "labelIds")),
]


def expected_names(dataset, places):
    """What each pixel is called, "void" where it does not count."""
    known = DATASETS[dataset]
    coarse = {name: group for name, group in _merged()} if dataset == "coco-stuff27" else {}
    fine = DATASETS["coco-stuff"].classes if dataset.startswith("coco") else known.classes

    def name(place):
        if place == LEFT_OUT or (place == NOTHING and not known.background):
            return "void"
        if dataset == "coco-object":
            return "void" if place < 0 else fine[place] if place < 80 else "background"
        return "background" if place == NOTHING else coarse.get(fine[place], fine[place])

    return np.vectorize(name, otypes=[object])(places)


def _merged():
    from ovseg_cli.evaluation.datasets.tables import table

    return [(fields[0], fields[1]) for _, fields in table("coco-stuff")]


def read_names(opened, key):
    truth = opened.truth
    ids = truth.read(key)
    names = {int(i): "void" if i in truth.ignore else truth.labels.name_of(int(i)) for i in np.unique(ids)}
    return np.vectorize(names.__getitem__, otypes=[object])(ids)


@pytest.mark.parametrize(("dataset", "form"), LAYOUTS)
def test_what_is_read_is_what_was_written(tmp_path, dataset, form):
    made = build(tmp_path, dataset, form)
    opened = open_dataset(dataset, tmp_path)
    assert len(opened.truth.keys) == len(made)
    for key, (name, places) in zip(opened.truth.keys, made.items(), strict=True):
        assert name in key
        np.testing.assert_array_equal(read_names(opened, key), expected_names(dataset, places))
    assert [key for key, _ in opened.images] == list(opened.truth.keys)
    assert all(path.is_file() for _, path in opened.images)


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "form"), LAYOUTS)
def test_a_right_prediction_scores_one_and_a_wrong_one_less(tmp_path, dataset, form):
    """Label maps as published code writes them: the classes in order, behind the background where it counts."""
    build(tmp_path, dataset, form)
    opened = open_dataset(dataset, tmp_path)
    values = {name.casefold(): i for i, name, _ in opened.indices}
    for key in opened.truth.keys:
        names = read_names(opened, key)
        first = {"void": 0, "background": opened.indices.background_id}
        if dataset == "voc20b":
            first["background"] = values["sky"]  # one of the things that are the background there
        ids = np.vectorize(lambda name: first.get(name, values.get(name.casefold())))(names)  # noqa: B023
        write_label(tmp_path / "right" / f"{key}.png", ids, opened.indices)
        write_label(tmp_path / "wrong" / f"{key}.png", np.roll(ids, 5, axis=0), opened.indices)
    for folder, right in (("right", True), ("wrong", False)):
        report = evaluate_truth(
            opened.truth,
            tmp_path / folder,
            prediction_labels=opened.indices,
            requested=opened.classes,
            background=opened.background,
        )
        assert report.images == 2
        assert not report.missing
        assert (report.miou == 1) == right
        assert (report.classes[0].name == "background") == opened.background
        assert len(report.classes) == len(opened.classes) + opened.background


def test_the_expected_number_of_classes():
    expected = {
        "voc21": 20,
        "voc20": 20,
        "voc20b": 20,
        "context60": 59,
        "context59": 59,
        "context459": 459,
        "coco-object": 80,
        "coco-stuff": 171,
        "coco-stuff27": 27,
        "ade150": 150,
        "ade847": 847,
        "cityscapes": 19,
    }
    assert {name: len(dataset.classes) for name, dataset in DATASETS.items()} == expected
    for dataset in DATASETS.values():
        for layout in dataset.layouts:
            assert set(layout.ids.values()) - {"background", "void"} == set(dataset.classes), (
                dataset.name,
                layout.title,
            )
        for names in dataset.names.values():
            assert len(names.words) == len(dataset.classes)
            assert len(set(names.classes)) == len(dataset.classes)


def test_names_of_the_methods_are_those_of_their_published_files():
    voc = DATASETS["voc21"]
    assert voc.names["sclip"].classes[3] == "ship"
    assert voc.names["sclip"].synonyms["person"][0] == "person in shirt"
    assert voc.names["proxyclip"].classes[-1] == "tvmonitor"
    assert voc.names["cliper"].classes[2] == "bird avian"
    assert voc.names_of("naclip") == "sclip"
    assert voc.names_of("prototype") == "default"
    assert len(voc.names["sclip"].background_words) == 26
    assert DATASETS["ade150"].names["sclip"].classes[56] == "pooltable"
    assert DATASETS["context59"].names["cat-seg"].classes[DATASETS["context59"].classes.index("table")] == "diningtable"


def test_the_published_settings_have_data_sets():
    from ovseg_cli.methods import published

    settings = (published.SCLIP, published.CLEARCLIP, published.NACLIP, published.PROXYCLIP, published.CLIPER)
    for name in {name for those in settings for name in those}:
        assert name in DATASETS


def test_the_merged_classes_are_those_of_stego():
    merged = dict(_merged())
    assert merged["person"] == "person"
    assert merged["fog"] == "water"
    assert merged["fruit"] == "food stuff"
    assert merged["banana"] == "food things"
    assert merged["rug"] == "textile"
    assert len(set(merged.values())) == 27


def test_ids_of_context_are_those_of_the_459():
    names = {index: name for index, name in DATASETS["context459"].layouts[0].ids.items()}
    few = DATASETS["context59"].layouts[2].ids
    assert all(names[index] == name for index, name in few.items() if index)


class TestNames:
    def test_a_prediction_may_have_the_names_of_any_paper(self, tmp_path):
        build(tmp_path, "voc21", "SegmentationClass")
        truth = open_dataset("voc21", tmp_path).truth
        for word, meaning in (
            ("ship", "boat"),
            ("tvmonitor", "tv monitor"),
            ("Screen", "tv monitor"),
            ("people", "person"),
        ):
            assert truth.meaning(word) == meaning
        assert truth.meaning("zebra") is None

    def test_those_of_a_paper(self, tmp_path):
        build(tmp_path, "voc20", "SegmentationClass")
        opened = open_dataset("voc20:sclip", tmp_path)
        assert opened.classes[3] == "ship"
        assert opened.truth.labels.name_of(4) == "ship"
        assert opened.truth.meaning("boat") == "ship"

    def test_a_name_of_a_class_is_no_other_name_of_another(self, tmp_path):
        build(tmp_path, "ade150", "ADE20K")
        truth = open_dataset("ade150", tmp_path).truth
        assert truth.meaning("boat") == "boat"
        assert truth.meaning("ship") == "ship"

    def test_unknown(self, tmp_path):
        with pytest.raises(UsageError, match=r"There is no data set 'voc2'; there are voc21, .* Did you mean"):
            open_dataset("voc2", tmp_path)
        with pytest.raises(
            UsageError, match=r"There are no names 'sclp' of voc21; there are default, .* Did you mean 'sclip'"
        ):
            open_dataset("voc21:sclp", tmp_path)


class TestWhatIsMissing:
    def test_the_folder(self, tmp_path):
        with pytest.raises(
            LabelError, match=r"The folder .*no of the data set voc21 does not exist\. Name it with --root\."
        ):
            open_dataset("voc21", tmp_path / "no")

    def test_the_labels(self, tmp_path):
        (tmp_path / "JPEGImages").mkdir()
        with pytest.raises(LabelError) as caught:
            open_dataset("voc21", tmp_path)
        assert str(caught.value) == (
            f"There are no labels of voc21 in {tmp_path}: looked for SegmentationClass/**/*.png, "
            "SegmentationClassAug/**/*.png. Download VOCtrainval_11-May-2012.tar of PASCAL VOC 2012, and name the "
            "folder that it is unpacked to with --root."
        )

    def test_some_labels_of_the_official_list(self, tmp_path):
        build(tmp_path, "voc21", "SegmentationClass")
        base = tmp_path / "VOCdevkit" / "VOC2012"
        (base / "SegmentationClass" / "2007_000042.png").unlink()
        opened = open_dataset("voc21", tmp_path)
        assert opened.notes == (
            f"1 of the 2 pictures of {base / 'ImageSets/Segmentation/val.txt'} have no label: 2007_000042",
            "1 labelled pictures, and the split val of voc21 has 1,449: figures are not those of the whole split",
        )

    def test_the_list(self, tmp_path):
        build(tmp_path, "voc21", "SegmentationClass")
        base = tmp_path / "VOCdevkit" / "VOC2012"
        (base / "ImageSets" / "Segmentation" / "val.txt").unlink()
        opened = open_dataset("voc21", base)
        assert opened.notes[0].startswith("there is no list ")
        assert len(opened.truth.keys) == 3

    def test_the_pictures_are_needed_for_segmenting_only(self, tmp_path):
        build(tmp_path, "voc21", "SegmentationClass")
        pictures = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages"
        (pictures / "2007_000033.jpg").unlink()
        opened = open_dataset("voc21", tmp_path)
        assert opened.notes[-1] == f"1 of 2 labelled pictures are not in {pictures}: 2007_000033.jpg"
        assert opened.truth.notes == opened.notes[:-1]
        assert [key for key, _ in opened.images] == ["2007_000042"]

    def test_a_split(self, tmp_path):
        build(tmp_path, "voc21", "SegmentationClass")
        with pytest.raises(UsageError, match=r"voc21 has no split 'test'; it has val, train, trainval\."):
            open_dataset("voc21", tmp_path, "test")

    def test_pictures_of_a_list_of_ones_own(self, tmp_path):
        build(tmp_path, "voc21", "SegmentationClass")
        own = tmp_path / "few.txt"
        own.write_text("JPEGImages/2007_000042.jpg\n2007_000077\n")
        with pytest.raises(LabelError) as caught:
            open_dataset("voc21", tmp_path, str(own))
        labels = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass"
        assert str(caught.value) == (
            f"The list {own} names 2 pictures, and 1 of them have no label in {labels}: 2007_000077. Take them out of "
            "the list, or add their labels."
        )
        own.write_text("# mine\nJPEGImages/2007_000042.jpg\n")
        assert open_dataset("voc21", tmp_path, str(own)).truth.keys == ("2007_000042",)


def test_a_palette_in_another_order_is_read_by_its_colours(tmp_path):
    """Optimisers of PNGs sort palettes."""
    from PIL import Image

    made = build(tmp_path, "voc21", "SegmentationClass")
    path = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000033.png"
    Image.open(path).convert("RGB").quantize(16).save(path)
    opened = open_dataset("voc21", tmp_path)
    np.testing.assert_array_equal(read_names(opened, "2007_000033"), expected_names("voc21", made["2007_000033"]))


def test_other_values_may_be_left_out(tmp_path):
    build(tmp_path, "voc21", "SegmentationClass")
    opened = open_dataset("voc21", tmp_path, ignore=[255, 15])
    assert opened.ignore == (255, 15)
    assert open_dataset("voc21", tmp_path, ignore=-1).ignore == ()


def test_predictions_may_lie_in_other_folders(tmp_path):
    """Cityscapes' labels lie by city; whoever writes label maps often puts them into one folder."""
    made = build(tmp_path, "cityscapes", "labelIds")
    opened = open_dataset("cityscapes", tmp_path)
    for name, places in made.items():
        write_label(tmp_path / "flat" / f"{name}_leftImg8bit.png", np.maximum(places, 0), opened.indices)
    report = evaluate_truth(
        opened.truth, tmp_path / "flat", prediction_labels=opened.indices, requested=opened.classes, background=False
    )
    assert (report.images, report.missing, report.miou) == (2, (), 1.0)
