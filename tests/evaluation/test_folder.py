from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import ImageError, LabelError
from ovseg_cli.evaluation.arrays import evaluate_arrays
from ovseg_cli.evaluation.folder import evaluate_folders
from ovseg_cli.evaluation.pairing import partners
from ovseg_cli.evaluation.report import Report
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from tests.files.painting import in_colours

RNG = np.random.default_rng(2)
PREDICTED = LabelMap.from_classes(["cat", "dog"])
# The ground truth numbers its classes in another order, and knows one more.
TRUE = LabelMap.from_classes(["horse", "dog", "cat"])


class Folders:
    def __init__(self, root: Path) -> None:
        self.gt, self.prediction = root / "gt", root / "pred"
        self.gt.mkdir()
        self.prediction.mkdir()

    def truth(self, key: str, ids: object, labels: LabelMap = TRUE) -> None:
        write_label(self.gt / f"{key}.png", np.array(ids), labels)
        write_labelmap(self.gt / "labelmap.txt", labels)

    def predict(self, key: str, ids: object, labels: LabelMap = PREDICTED) -> None:
        write_label(self.prediction / f"{key}.png", np.array(ids), labels)

    def score(self, **options: object) -> Report:
        return evaluate_folders(self.gt, self.prediction, **({"prediction_labels": PREDICTED} | options))


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


def scores(report: Report) -> dict[str, float | None]:
    return {score.name: score.iou for score in report.classes}


def brute_force(pairs, names, *, background: bool) -> dict[str, float | None]:
    """Compare arrays of *names* pixel by pixel."""
    total = {name: [0, 0] for name in names}
    for truth, prediction in pairs:
        for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
            if t == "ignore" or (not background and t not in names):
                continue
            t, p = (x if x in names else "background" for x in (t, p))
            for name in total:
                total[name][0] += t == p == name
                total[name][1] += name in (t, p)
    return {name: hit / union if union else None for name, (hit, union) in total.items()}


@pytest.mark.parametrize("background", [True, False])
def test_ids_are_matched_by_name_whatever_their_order(folders, background):
    pairs = []
    for key in ("a", "sub/b"):
        true = RNG.choice([0, 1, 2, 3, 255], (20, 30), p=[0.4, 0.1, 0.2, 0.2, 0.1])
        predicted = RNG.integers(0, 3, (20, 30))
        folders.truth(key, true)
        folders.predict(key, predicted)
        name_true = np.vectorize(lambda i: TRUE.name_of(i) or "ignore")(true)
        name_predicted = np.vectorize(PREDICTED.name_of)(predicted)
        pairs.append((name_true, name_predicted))
    report = folders.score(requested=["cat", "dog"], background=background)
    names = ["background", "cat", "dog"] if background else ["cat", "dog"]
    expected = brute_force(pairs, names, background=background)
    assert list(scores(report)) == names
    for name, value in expected.items():
        assert scores(report)[name] == pytest.approx(value), name
    assert report.miou == pytest.approx(np.mean(list(expected.values())))
    assert report.images == 2


def test_order_of_the_request(folders):
    folders.truth("a", [[3, 2]])
    folders.predict("a", [[1, 2]])
    report = folders.score(requested=["dog", "CAT", "dog", "background"])
    assert list(scores(report)) == ["background", "dog", "CAT"]
    assert scores(report) == {"background": None, "dog": 1.0, "CAT": 1.0}


def test_without_a_request_every_predicted_class_is_scored(folders):
    folders.truth("a", [[0, 2]])
    folders.predict("a", [[0, 2]])
    assert list(scores(folders.score())) == ["background", "cat", "dog"]


class TestUnaskedClasses:
    def test_count_as_background(self, folders):
        folders.truth("a", [[0, 1, 1, 3, 255]])  # background, horse, horse, cat, ignore
        folders.predict("a", [[0, 0, 1, 1, 1]])
        report = folders.score(requested=["cat"])
        assert scores(report) == {"background": pytest.approx(2 / 3), "cat": pytest.approx(1 / 2)}
        (horse,) = report.unasked
        assert (horse.name, horse.pixels, horse.share) == ("horse", 2, 0.5)
        assert (report.pixels, report.ignored_pixels) == (4, 1)
        assert "classes not asked for as background" in report.convention

    def test_are_left_out_without_background(self, folders):
        folders.truth("a", [[0, 1, 1, 3, 3]])
        folders.predict("a", [[0, 0, 1, 1, 0]])
        report = folders.score(requested=["cat"], background=False)
        assert scores(report) == {"cat": 0.5}
        assert (report.pixels, report.ignored_pixels) == (2, 3)
        assert report.unasked[0].share == pytest.approx(2 / 5)
        assert report.pixel_accuracy == 0.5

    def test_predicted_ones_count_as_background_and_are_told(self, folders):
        folders.truth("a", [[0, 3, 3]])
        folders.predict("a", [[2, 2, 1]])
        report = folders.score(requested=["cat"])
        assert scores(report) == {"background": 0.5, "cat": 0.5}
        assert "2 pixel(s) predicted as dog count as background" in report.warnings


def test_absent_from_both_is_not_defined(folders):
    folders.truth("a", [[0, 3]])
    folders.predict("a", [[0, 1]])
    report = folders.score()
    assert scores(report)["dog"] is None
    assert report.miou == 1.0
    assert report.rows()[2] == ("dog", "–", "0.0 %", "0.0 %")
    assert report.rows()[1] == ("cat", "1.000", "50.0 %", "50.0 %")


def test_only_predicted_counts_as_zero(folders):
    folders.truth("a", [[0, 0]])
    folders.predict("a", [[0, 2]])
    report = folders.score()
    assert scores(report) == {"background": 0.5, "cat": None, "dog": 0.0}
    assert report.miou == 0.25
    assert report.miou_present == 0.5


class TestPairing:
    def test_missing_and_extra_are_counted_and_named(self, folders):
        for key in ("a", "sub/b", "c"):
            folders.truth(key, [[0]])
        for key in ("a", "d"):
            folders.predict(key, [[0]])
        report = folders.score()
        assert (report.images, report.missing, report.extra) == (1, ("c", "sub/b"), ("d",))
        assert "2 labelled pictures have no prediction: c, sub/b" in report.warnings
        assert "1 prediction(s) have no ground truth: d" in report.warnings

    def test_no_pair_at_all(self, folders):
        folders.truth("x_gt", [[0]])
        folders.predict("sub/x", [[0]])
        with pytest.raises(LabelError, match="labels are called 'x_gt', predictions 'sub/x'"):
            folders.score()

    def test_sizes_differ(self, folders):
        folders.truth("a", [[0, 0]])
        folders.predict("a", [[0], [0]])
        with pytest.raises(LabelError, match=r"gt/a\.png is 2x1, .*pred/a\.png is 1x2"):
            folders.score()

    def test_two_labels_of_one_image(self, folders):
        folders.truth("a", [[0]])
        folders.predict("a", [[0]])
        Image.new("L", (1, 1)).save(folders.gt / "a.bmp")
        with pytest.raises(LabelError, match=r"a\.bmp and .*a\.png both label the image 'a'"):
            folders.score()

    def test_formats_may_differ(self, folders):
        folders.truth("a", [[0, 3]])
        (folders.gt / "a.png").unlink()
        Image.fromarray(np.array([[0, 3]], dtype=np.uint8)).save(folders.gt / "a.tif")
        folders.predict("a", [[0, 1]])
        assert folders.score().miou == 1.0

    def test_missing_or_empty_folders(self, folders, tmp_path):
        with pytest.raises(LabelError, match="does not exist"):
            evaluate_folders(tmp_path / "no", folders.prediction, prediction_labels=PREDICTED)
        (tmp_path / "file").touch()
        with pytest.raises(LabelError, match="is not a folder"):
            evaluate_folders(folders.gt, tmp_path / "file", prediction_labels=PREDICTED, gt_labels=TRUE)
        with pytest.raises(LabelError, match="No label image in"):
            folders.score(gt_labels=TRUE)

    def test_hidden_files_are_passed_over(self, folders):
        folders.truth("a", [[0]])
        folders.predict("a", [[0]])
        (folders.gt / "._a.png").write_bytes(b"mac")
        (folders.prediction / ".ovseg-1.png").write_bytes(b"")
        assert folders.score().images == 1

    def test_our_output_folder_and_a_voc_export(self, tmp_path):
        for root, ids, labels in ((tmp_path / "gt", [[3]], TRUE), (tmp_path / "out", [[1]], PREDICTED)):
            write_label(root / "SegmentationClass" / "d" / "a.png", np.array(ids), labels)
            write_label(root / "overlay" / "d" / "a.png", np.array(ids), labels)
            write_labelmap(root / "labelmap.txt", labels)
        report = evaluate_folders(tmp_path / "gt", tmp_path / "out", prediction_labels=PREDICTED)
        assert (report.images, report.miou) == (1, 1.0)
        assert report.sources["ground_truth_labels"] == str(tmp_path / "gt" / "labelmap.txt")
        assert report.sources["predictions"] == str(tmp_path / "out" / "SegmentationClass")

    def test_damaged_label(self, folders):
        folders.truth("a", [[0]])
        folders.predict("a", [[0]])
        (folders.prediction / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        with pytest.raises(ImageError, match=r"pred/a\.png"):
            folders.score()


def test_partners():
    decomposed = "cafe\u0301"
    assert partners(["a", "café", "A", "x"], ["a.jpg", "A.jpg", decomposed, "x.jpg", "x.png"]) == {
        "a": "a.jpg",
        "A": "A.jpg",
        "café": decomposed,
    }
    assert partners(["shot.2024", "p.jpg"], ["shot.2024", "shot", "p"]) == {"shot.2024": "shot.2024", "p.jpg": "p"}
    assert partners(["a", "a.jpg"], ["a.jpg"]) == {"a.jpg": "a.jpg"}, "the same name comes first"


class TestNames:
    def test_no_map(self, folders):
        folders.truth("a", [[0]])
        folders.predict("a", [[0]])
        (folders.gt / "labelmap.txt").unlink()
        with pytest.raises(LabelError, match=r"Nothing names the label ids in .*--label-map FILE"):
            folders.score()
        assert folders.score(gt_labels=TRUE).miou == 1.0

    def test_true_id_without_a_name(self, folders):
        folders.truth("a", [[0, 3, 3]])
        folders.predict("a", [[0, 1, 1]])
        labels = LabelMap.from_classes(["horse", "dog"])
        with pytest.raises(LabelError, match=r"gt/a\.png holds the id 3 \(2 pixels\).*--label-map.*--ignore 3"):
            folders.score(gt_labels=labels)

    def test_predicted_id_without_a_name(self, folders):
        folders.truth("a", [[0, 3]])
        folders.predict("a", [[0, 2]])
        with pytest.raises(LabelError, match=r"pred/a\.png holds the id 2 \(1 pixels\)"):
            folders.score(prediction_labels=LabelMap.from_classes(["cat"]))

    def test_id_0_without_a_name_is_the_background(self, folders):
        folders.truth("a", [[0, 3]])
        folders.predict("a", [[0, 1]])
        report = folders.score(gt_labels=LabelMap(("cat",), (3,)), requested=["cat"])
        assert scores(report) == {"background": 1.0, "cat": 1.0}

    @pytest.mark.parametrize("name", ["_background_", "Background"])
    def test_background_by_other_names_and_ids(self, folders, name):
        folders.truth("a", [[1, 2]])
        folders.predict("a", [[0, 1]])
        report = folders.score(gt_labels=LabelMap((name, "cat"), (1, 2)), requested=["cat"])
        assert scores(report) == {"background": 1.0, "cat": 1.0}

    def test_id_0_beside_a_background_elsewhere_is_told(self, folders):
        folders.truth("a", [[0, 1, 2]])
        folders.predict("a", [[0, 0, 1]])
        labels = LabelMap(("background", "cat"), (1, 2))
        with pytest.raises(LabelError, match=r"holds the id 0 .*does not name \(the background is 1\).*--ignore 0"):
            folders.score(gt_labels=labels)
        assert folders.score(gt_labels=labels, ignore=0, requested=["cat"]).miou == 1.0

    def test_several_ids_of_one_name_are_one_class(self, folders):
        folders.truth("a", [[0, 1, 2, 3]])
        folders.predict("a", [[0, 1, 1, 2]])
        labels = LabelMap(("background", "cat", "Cat", "dog"), (0, 1, 2, 3))
        assert folders.score(gt_labels=labels).miou == 1.0

    def test_a_map_of_other_labels_is_an_error_and_named(self, folders):
        folders.truth("a", [[0, 1]])
        folders.predict("a", [[0, 1]])
        with pytest.raises(
            LabelError, match=r"names none of the classes to score \(cat, dog\); it names background, x"
        ):
            folders.score(gt_labels=LabelMap.from_classes(["x", "y"]))

    def test_case_and_unicode_form(self, folders):
        folders.truth("a", [[1]], LabelMap.from_classes(["Cre\u0300me  Brûlée"]))
        predicted = LabelMap.from_classes(["crème brûlée"])
        folders.predict("a", [[1]], predicted)
        assert folders.score(prediction_labels=predicted).miou == 1.0

    def test_requested_but_nowhere_named(self, folders):
        folders.truth("a", [[0, 3]])
        folders.predict("a", [[0, 1]])
        report = folders.score(requested=["cat", "zebra"])
        assert scores(report)["zebra"] is None
        assert any(w.startswith("not in the label map of the ground truth: zebra") for w in report.warnings)
        assert any(w.startswith("not in the predictions' label map: zebra") for w in report.warnings)

    def test_colour_labels(self, folders):
        ids = np.array([[0, 1, 2, 3, 255]])
        folders.truth("a", ids)
        Image.fromarray(in_colours(ids, TRUE)).save(folders.gt / "a.png")
        folders.predict("a", [[0, 0, 2, 1, 1]])
        assert folders.score().miou == 1.0


class TestIgnore:
    def test_another_value(self, folders):
        folders.truth("a", [[0, 1, 3]])
        folders.predict("a", [[0, 1, 1]])
        report = folders.score(ignore=1)
        assert (report.miou, report.ignored_pixels, report.unasked) == (1.0, 1, ())
        assert "pixels labelled 1 left out" in report.convention

    def test_void_by_name(self, folders):
        labels = LabelMap(("background", "cat", "void"), (0, 1, 2))
        folders.truth("a", [[0, 1, 2]], labels)
        folders.predict("a", [[0, 1, 2]])
        report = folders.score()
        assert (report.miou, report.ignored_pixels) == (1.0, 1)

    @pytest.mark.parametrize("name", ["unlabeled", "__ignore__", "No data"])
    def test_void_in_any_dress_may_be_255(self, folders, name):
        folders.truth("a", [[0, 1, 255]])
        folders.predict("a", [[0, 1, 1]])
        report = folders.score(gt_labels=LabelMap(("background", "cat", name), (0, 1, 255)))
        assert (report.miou, report.ignored_pixels) == (1.0, 1)

    def test_255_of_a_class_is_left_out_if_one_says_so(self, folders):
        folders.truth("a", [[0, 1, 255]])
        folders.predict("a", [[0, 1, 1]])
        report = folders.score(gt_labels=LabelMap(("background", "cat", "cow"), (0, 1, 255)), ignore=255)
        assert (report.miou, report.ignored_pixels) == (1.0, 1)

    def test_255_with_a_class_name_is_a_contradiction(self, folders):
        folders.truth("a", [[0, 255]])
        folders.predict("a", [[0, 1]])
        labels = LabelMap(("background", "cat"), (0, 255))
        with pytest.raises(LabelError, match=r"calls id 255 'cat'.*--ignore"):
            folders.score(gt_labels=labels)
        assert folders.score(gt_labels=labels, ignore=-1).miou == 1.0

    def test_masks_of_0_and_255_are_told(self, folders):
        folders.truth("a", [[0, 255]])
        folders.predict("a", [[0, 1]])
        assert any("only background and pixels that are left out" in w for w in folders.score().warnings)

    def test_nothing_left(self, folders):
        folders.truth("a", [[255, 255]])
        folders.predict("a", [[0, 1]])
        report = folders.score()
        assert (report.miou, report.pixel_accuracy) == (None, None)
        assert report.warnings == (
            "no pixel is left to score, as all pixels of the ground truth are 255, or void: check the labels and "
            "--ignore",
        )

    def test_predicted_255_is_wrong_not_left_out(self, folders):
        folders.truth("a", [[3, 3]])
        folders.predict("a", [[255, 1]])
        report = folders.score()
        assert scores(report)["cat"] == 0.5
        assert any("1 predicted pixel(s) have the value 255" in w for w in report.warnings)


def test_more_than_255_classes(folders):
    names = [f"class {i}" for i in range(1, 301)]
    predicted, true = LabelMap.from_classes(names), LabelMap.from_classes(names[::-1])
    ids = np.arange(301).reshape(7, 43)
    folders.predict("a", ids, predicted)
    folders.truth("a", np.where(ids > 0, 301 - ids, 0), true)
    report = folders.score(prediction_labels=predicted, ignore=-1)
    assert report.miou == 1.0
    assert all(score.gt_pixels == 1 for score in report.classes)


def test_report_is_json(folders):
    folders.truth("a", [[0, 1]])
    folders.predict("a", [[0, 1]])
    data = json.loads(json.dumps(folders.score().to_dict(), allow_nan=False))
    assert data["classes"][2] == {
        "name": "dog",
        "iou": None,
        "precision": None,
        "recall": None,
        "gt_pixels": 0,
        "predicted_pixels": 0,
        "gt_share": 0.0,
        "predicted_share": 0.0,
        "dice": None,
        "boundary_iou": None,
    }
    assert data["unasked"] == [{"name": "horse", "pixels": 1, "share": 0.5}]


def test_progress(folders):
    for key in "abc":
        folders.truth(key, [[0]])
        folders.predict(key, [[0]])
    seen: list[tuple[int, int]] = []
    folders.score(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


class TestArrays:
    def test_agrees_with_folders(self, folders):
        gt = [RNG.choice([0, 1, 2, 255], (9, 7)) for _ in range(3)]
        predictions = [RNG.integers(0, 3, (9, 7)) for _ in range(3)]
        for i, (t, p) in enumerate(zip(gt, predictions, strict=True)):
            folders.truth(str(i), t, PREDICTED)
            folders.predict(str(i), p)
        report = evaluate_arrays(iter(predictions), iter(gt), ["background", "cat", "dog"])
        expected = folders.score()
        assert report.classes == expected.classes
        assert (report.miou, report.images) == (expected.miou, 3)
        assert report.convention == expected.convention

    def test_dataset_level_not_the_mean_of_images(self):
        """Two images of 100x100, 4 pixels of an object missed in one: per-image averaging would give 0.75."""
        gt = np.zeros((2, 100, 100), dtype=np.uint8)
        gt[0, 50:, :] = 1
        gt[1, :2, :2] = 1
        prediction = gt.copy()
        prediction[1] = 0
        report = evaluate_arrays(prediction, gt, ["background", "thing"])
        assert report.miou == pytest.approx(0.9995, abs=1e-4)

    def test_mistakes_name_the_image(self):
        good, bad = np.zeros((2, 2), dtype=int), np.full((2, 2), 9)
        with pytest.raises(ValueError, match="image 1: the prediction holds"):
            evaluate_arrays([good, bad], [good, good], ["background", "cat"])
        with pytest.raises(ValueError, match="image 1 has no prediction"):
            evaluate_arrays([good], [good, good], ["background", "cat"])
        with pytest.raises(ValueError, match="image 1 has no ground truth"):
            evaluate_arrays([good, good], [good], ["background", "cat"])

    def test_no_images(self):
        report = evaluate_arrays([], [], ["a", "b"])
        assert (report.images, report.miou, report.background) == (0, None, False)


def test_scoring_loads_no_network_library():
    code = "import sys, ovseg_cli.evaluation.folder, ovseg_cli.drawing.overlay; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "open_clip", "faiss", "skimage"} & set(loaded)
