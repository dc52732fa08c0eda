"""Mistakes that people make with folders of labels: each is recognised, with what to do, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.datasets import open_dataset
from ovseg_cli.evaluation.folder import evaluate_folders, evaluate_truth
from ovseg_cli.evaluation.truth import read_ground_truth
from ovseg_cli.files.blending import looks_blended
from ovseg_cli.files.labels import LabelMap, read_label, read_labelmap, write_label, write_labelmap
from tests.evaluation.datasets import miniature
from tests.evaluation.datasets.miniature import scene

EXAMPLES = Path(__file__).parents[2] / "examples" / "pictograms" / "labels"
NAMES = ["cat", "dog", "horse", "sheep", "cow", "bird", "car", "bus"]
LABELS = LabelMap.from_classes(NAMES)


def label(number: int) -> np.ndarray:
    """A label map: areas of three classes on background, and a border that is left out."""
    places = scene(number, len(NAMES))
    return np.where(places == -2, 255, places + 1).astype(np.uint8)


class Folders:
    """Ground truth and predictions: the labels themselves, with some of the areas moved."""

    def __init__(self, root: Path, pictures: int = 6) -> None:
        self.gt, self.prediction = root / "gt", root / "pred"
        self.labels = {f"{number:02d}": label(number) for number in range(pictures)}
        for key, ids in self.labels.items():
            predicted = np.where(ids == 255, 0, np.roll(ids, 1, axis=0))
            predicted[predicted == 255] = 0
            self.write("gt", key, ids)
            self.write("pred", key, predicted)
        write_labelmap(self.gt / "labelmap.txt", LABELS)

    def write(self, which: str, key: str, ids: np.ndarray) -> None:
        folder = self.gt if which == "gt" else self.prediction
        folder.mkdir(exist_ok=True)
        Image.fromarray(ids).save(folder / f"{key}.png")

    def score(self, **options):
        return evaluate_folders(self.gt, self.prediction, **{"prediction_labels": LABELS, **options})

    def error(self, **options) -> str:
        with pytest.raises(LabelError) as caught:
            self.score(**options)
        return str(caught.value)


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


class TestNoFalseAlarm:
    def test_good_folders(self, folders):
        report = folders.score()
        assert report.warnings == ()
        assert report.miou > 0.6

    @pytest.mark.parametrize("step", [0, 3, 40, 200])
    def test_bundled_labels_against_moved_ones(self, tmp_path, step):
        """Good, middling and hopeless predictions of the example pictures."""
        labels = read_labelmap(EXAMPLES / "labelmap.txt")
        for path in sorted(EXAMPLES.glob("*.png"))[:16]:
            ids = np.roll(read_label(path), step, axis=1)
            write_label(tmp_path / path.name, np.where(ids == 255, 0, ids).astype(np.uint8), labels)
        truth = read_ground_truth(EXAMPLES)
        report = evaluate_truth(truth, tmp_path, prediction_labels=labels)
        assert [text for text in report.warnings if "no prediction" not in text and "never predicted" not in text] == []

    def test_a_method_that_takes_one_class_for_another(self, folders):
        for key, ids in folders.labels.items():
            folders.write("pred", key, np.where((ids > 0) & (ids < 255), 3, 0).astype(np.uint8))
        assert folders.score(requested=NAMES).warnings == ()

    def test_random_predictions(self, folders):
        random = np.random.default_rng(0)
        for key, ids in folders.labels.items():
            folders.write("pred", key, random.integers(0, 9, ids.shape).astype(np.uint8))
        assert folders.score().warnings == ()

    def test_thin_things_noise_and_lines_between_areas_are_not_blended(self):
        random = np.random.default_rng(1)
        thin = np.full((60, 80), 23)
        thin[:, ::9] = 17  # poles
        thin[40:] = 7
        assert not looks_blended(thin)
        assert not looks_blended(random.integers(0, 20, (60, 80)))
        bordered = np.where(np.indices((60, 80))[1] < 40, 0, 2)
        bordered[:, 40] = 1
        assert not looks_blended(bordered)
        assert not any(looks_blended(label(number)) for number in range(30))
        assert not any(looks_blended(read_label(path)) for path in EXAMPLES.glob("*.png"))


class TestShiftedIds:
    MESSAGE = (
        "the ids seem to be one off: {share} of what is predicted lies on the id one {higher} than the one that its "
        "name has "
        "in the ground truth, and {right} on that. {name} is {index} by the label map {source}, and {found} by the "
        "pixels. Is "
        "the background, or an id 0 that does not count, missing in one of the two label maps? Give the right one with "
        "--label-map FILE"
    )

    def test_a_map_that_begins_at_0(self, folders):
        """COCO-Stuff's labels.txt and the like: all names are one above the ids."""
        shifted = LabelMap((*NAMES, "background"), tuple(range(9)))
        (warning,) = folders.score(gt_labels=shifted, source="labels.txt").warnings
        parts = {"share": "96%", "higher": "higher", "right": "0%", "name": "dog", "index": 1, "found": 2}
        assert warning == self.MESSAGE.format(**parts, source="labels.txt")

    def test_a_map_that_begins_at_2(self, folders):
        shifted = LabelMap(("background", "person", *NAMES), tuple(range(10)))
        report = folders.score(gt_labels=shifted, source="labels.txt", requested=NAMES)
        assert "lies on the id one lower than the one that its name has" in report.warnings[0]
        assert "dog is 3 by the label map labels.txt, and 2 by the pixels" in report.warnings[0]

    def test_predictions_of_another_protocol(self, tmp_path):
        """Label maps of VOC20 (aeroplane is 0) that are read as those of VOC21."""
        made = {"2007_000033": scene(1, 20), "2007_000042": scene(2, 20)}
        miniature.voc(tmp_path, made)
        opened = open_dataset("voc21", tmp_path)
        folder = tmp_path / "pred"
        folder.mkdir()
        for key, places in made.items():
            Image.fromarray(np.maximum(places, 0).astype(np.uint8)).save(folder / f"{key}.png")
        report = evaluate_truth(opened.truth, folder, prediction_labels=opened.indices, requested=opened.classes)
        assert sum("the ids seem to be one off" in warning for warning in report.warnings) == 1


class TestNamesOfOthers:
    def test_a_label_map_of_another_run(self, folders):
        other = LabelMap.from_classes(["bus", "bird", "cat", "horse", "dog", "cow", "sheep", "car"])
        (warning,) = folders.score(prediction_labels=other, requested=NAMES).warnings
        assert warning == (
            "the names seem to belong to other ids: 0% of what is predicted is right, and with exchanged names it "
            "would be "
            "96% (cat lies on horse, horse lies on sheep, dog lies on cow and 5 more). Is one of the label maps, or a "
            "palette, that of another run or data set? Give the right one with --label-map FILE"
        )

    def test_a_palette_of_others(self, folders):
        """RGB labels and a map whose colours stand at other names."""
        colours = np.random.default_rng(5).integers(0, 255, (9, 3))
        names = ["background", "bus", "bird", "cat", "horse", "dog", "cow", "sheep", "car"]
        lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(names, colours.tolist(), strict=True)]
        (folders.gt / "labelmap.txt").write_text("\n".join(lines))
        for key, ids in folders.labels.items():
            folders.write("gt", key, colours[np.where(ids == 255, 0, ids)].astype(np.uint8))
        assert "the names seem to belong to other ids" in folders.score().warnings[-1]


class TestSizes:
    def test_a_prediction_of_a_smaller_picture(self, folders):
        for key, ids in folders.labels.items():
            folders.write("pred", key, np.where(ids == 255, 0, ids)[::2, ::2])
        assert folders.error() == (
            f"The sizes differ: {folders.gt / '00.png'} is 48x36, {folders.prediction / '00.png'} is 24x18. "
            "Predictions must "
            "have the size of the labels. The prediction is 2 times smaller: it was made of a resized picture. Scale "
            "it to "
            "the label's size by nearest neighbour, or segment the pictures as they are. All of the 6 pictures differ "
            "in size."
        )

    def test_some_are_turned(self, folders):
        folders.write("pred", "02", np.zeros((48, 36), np.uint8))
        assert folders.error().endswith(
            "02.png is 36x48. Predictions must have the size of the labels. One is the other turned: an EXIF "
            "orientation was applied to one of them only. 1 of the 6 pictures differ in size."
        )

    def test_a_squashed_picture(self, folders):
        folders.write("pred", "02", np.zeros((32, 32), np.uint8))
        assert (
            "The prediction is a square, so it was made of a squashed picture. Scale it back to 48x36."
            in folders.error()
        )

    def test_another_picture(self, folders):
        folders.write("pred", "02", np.zeros((20, 90), np.uint8))
        assert "Is it the prediction of another picture of this name?" in folders.error()


class TestLabelsThatAreNotExact:
    SMOOTHED = (
        " The ids along its edges lie between those of its areas, so it was resized, smoothed or saved as JPEG: make "
        "it again without anti-aliasing, and scale labels by nearest neighbour only."
    )

    def smooth(self, ids: np.ndarray) -> np.ndarray:
        small = Image.fromarray(ids)
        return np.asarray(small.resize((96, 72), Image.Resampling.BICUBIC))

    def test_ids_that_no_class_has(self, folders):
        labels = LabelMap(("background", "cat", "dog", "horse"), (0, 60, 120, 240))
        for key, ids in folders.labels.items():
            folders.write("gt", key, self.smooth(np.choose(ids % 4, [0, 60, 120, 240]).astype(np.uint8)))
            folders.write("pred", key, np.zeros((72, 96), np.uint8))
        assert folders.error(gt_labels=labels, prediction_labels=labels).endswith(self.SMOOTHED)

    def test_ids_that_have_names(self, folders):
        names = [f"class {number}" for number in range(1, 250)]
        labels = LabelMap.from_classes(names)
        for key, ids in folders.labels.items():
            folders.write("gt", key, self.smooth((ids % 9 * 18).astype(np.uint8)))
            folders.write("pred", key, self.smooth((ids % 9 * 18).astype(np.uint8)))
        report = folders.score(gt_labels=labels, prediction_labels=labels)
        assert report.warnings == (
            "the labels look resized or smoothed (3 of 3 looked at, such as 00): the ids along edges lie between "
            "those of "
            "the areas, which makes classes that are not there. Make them again without anti-aliasing, and scale "
            "labels by nearest neighbour only",
        )

    def test_jpegs_in_a_folder(self, folders):
        for path in folders.gt.glob("*.png"):
            Image.open(path).save(path.with_suffix(".jpg"))
            path.unlink()
        assert folders.error() == (
            f"No label image in {folders.gt} (looked for .bmp, .gif, .pgm, .png, .tif, .tiff, .webp, in subfolders "
            "too), but "
            "6 JPEG(s) (00.jpg, 01.jpg, 02.jpg and 3 more): their values are not exact, so they cannot be labels. If "
            "these are photographs, name the folder of the labels; if they are the labels, export them again as PNG."
        )

    def test_a_jpeg_with_another_name(self, folders):
        ids = Image.fromarray(folders.labels["00"])
        ids.save(folders.gt / "00.png", format="JPEG")
        assert folders.error() == f"{folders.gt / '00.png'} is a JPEG, whose colours are not exact; save labels as PNG."

    def test_photographs_in_place_of_labels(self, folders):
        random = np.random.default_rng(2)
        for key in folders.labels:
            folders.write("gt", key, random.integers(0, 255, (36, 48, 3)).astype(np.uint8))
        assert folders.error().endswith(
            " With so many it is rather a photograph, or was saved as JPEG; name the folder of the labels."
        )

    def test_colours_that_were_smoothed(self, folders):
        for key, ids in folders.labels.items():
            colours = np.array([LABELS.colour_of(index) for index in range(256)], np.uint8)[ids]
            image = Image.fromarray(colours).resize((96, 72), Image.Resampling.BICUBIC)
            image.save(folders.gt / f"{key}.png")
            folders.write("pred", key, np.zeros((72, 96), np.uint8))
        message = folders.error()
        assert "colour(s) are not in the label map" in message
        assert message.endswith(
            " They are mixtures of its colours along edges: the labels were resized or smoothed. Make them again "
            "without anti-aliasing, and scale labels by nearest neighbour only."
        )


class TestIdsBeyondTheMap:
    def start(self, folders, label, pixels):
        return (
            f"{folders.gt / '00.png'} holds the id {label} ({pixels} pixels), which the label map does not name. Add "
            "a line "
            "for it to labelmap.txt, or give another map with --label-map FILE, or leave it out with --ignore "
        )

    def test_one(self, folders):
        ids = folders.labels["00"].copy()
        ids[:2, :5] = 77
        folders.write("gt", "00", ids)
        assert folders.error() == f"{self.start(folders, 77, 10)}77."

    def test_those_of_another_data_set(self, folders):
        ids = folders.labels["00"].copy()
        ids[:2, :5], ids[:2, 6:9], ids[:2, 10:12] = 77, 130, 149
        folders.write("gt", "00", ids)
        assert folders.error().endswith(
            " It has 3 ids without a name, up to 149, and the map names ids up to 8: is it the map of another data "
            "set or run?"
        )

    def test_those_of_instances(self, folders):
        for key, ids in folders.labels.items():
            folders.write(
                "gt", key, np.where(ids == 255, 0, ids.astype(np.uint16) * 1000 + 3 * (ids > 0)).astype(np.uint16)
            )
        assert folders.error().endswith(
            " Divided by 1000 its ids have names, so they are those of instances (class * 1000 + number, as "
            "Cityscapes and MOTS have them): take the labels of classes."
        )

    def test_those_that_were_spread_to_be_seen(self, folders):
        for key, ids in folders.labels.items():
            folders.write("gt", key, np.where(ids == 255, 0, ids * 30).astype(np.uint8))
        assert ": multiples of 30, as if they were spread to be seen. Divided by 30 they have names" in folders.error()

    def test_the_last_of_a_list_that_begins_at_0(self, folders):
        """A list of 150 names for ADE20K's ids 0 to 150."""
        present = max(int(ids[ids < 255].max()) for ids in folders.labels.values())
        labels = LabelMap(tuple(NAMES[:present]), tuple(range(present)))
        assert folders.error(gt_labels=labels, requested=NAMES[:3]).endswith(
            f" The map calls 0 'cat' and ends at {present - 1}, and the labels go one further: in them 0 is probably "
            "the background, or what does not count, so write it down first."
        )

    def test_in_a_prediction(self, folders):
        predicted = np.zeros((36, 48), np.uint16)
        predicted[:5] = 2003
        folders.write("pred", "00", predicted)
        assert "Divided by 1000 its ids have names" in folders.error()


class TestFolders:
    def test_exchanged(self, folders, tmp_path):
        output = tmp_path / "ovseg-out" / "SegmentationClass"
        output.parent.mkdir()
        folders.prediction.rename(output)
        (output.parent / "run.json").write_text("{}")
        write_labelmap(output.parent / "labelmap.txt", LABELS)
        report = evaluate_folders(output, folders.gt, prediction_labels=LABELS)
        assert report.warnings[-1] == (
            f"the ground truth {output} is an output folder of ovseg segment, and the predictions in {folders.gt} are "
            "not: are --gt and --pred exchanged?"
        )

    def test_the_same(self, folders):
        report = evaluate_folders(folders.gt, folders.gt, prediction_labels=LABELS)
        assert report.warnings[-1] == (
            f"ground truth and predictions are the same folder, {folders.gt}: every figure is that of a thing with "
            "itself"
        )

    def test_a_list_that_names_missing_files(self, folders, tmp_path):
        listing = tmp_path / "val.txt"
        listing.write_text("00\n01.png\n77\nimages/88.jpg\n")
        with pytest.raises(LabelError) as caught:
            read_ground_truth(folders.gt, split=listing)
        assert str(caught.value) == (
            f"The list {listing} names 4 pictures, and 2 of them have no label in {folders.gt}: 77, images/88.jpg. "
            "Take them out of the list, or add their labels."
        )
        listing.write_text("\n")
        with pytest.raises(LabelError, match="names no picture; write one name a line"):
            read_ground_truth(folders.gt, split=listing)

    def test_a_list_of_two_columns(self, folders, tmp_path):
        listing = tmp_path / "test.txt"
        listing.write_text("/test/03.png /testannot/03.png\n/test/01.png /testannot/01.png\n")
        assert read_ground_truth(folders.gt, split=listing).keys == ("03", "01")

    def test_all_is_left_out(self, folders):
        for key, ids in folders.labels.items():
            folders.write("gt", key, np.full_like(ids, 255))
        assert folders.score().warnings == (
            "no pixel is left to score, as all pixels of the ground truth are 255, or void: check the labels and "
            "--ignore",
        )

    def test_endings(self, folders):
        for path in [*folders.gt.glob("*.png")]:
            path.rename(path.with_name(f"{path.stem}_gtFine_labelIds.png"))
        truth = read_ground_truth(folders.gt, ending="_gtFine_labelIds.png")
        assert truth.keys == tuple(sorted(folders.labels))
        assert read_ground_truth(folders.gt, ending="_labelIds").keys[0] == "00_gtFine"
        with pytest.raises(LabelError) as caught:
            read_ground_truth(folders.gt, ending="_labelTrainIds.png")
        assert "has a name that ends in '_labelTrainIds.png' (there are 00_gtFine_labelIds.png, " in str(caught.value)
