from __future__ import annotations

import shutil

import numpy as np
import pytest

from ovseg_cli import evaluate_folder
from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from ovseg_cli.runs.evaluate import evaluate, last_predictions, predictions_in
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from tests.runs.conftest import Factory, paint, request


@pytest.fixture
def out(tmp_path, monkeypatch, store, profile):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "photos" / "a.png", 1, 0)
    paint(tmp_path / "photos" / "sub" / "b.png", 2, 1)
    wanted = request()
    plan = plan_run(["photos"], tmp_path / "out", wanted)
    run_folder(plan, Factory(store, profile, wanted), store, profile)
    return tmp_path / "out"


@pytest.fixture
def gt(tmp_path):
    """Truth with other ids: 1 is the dog, 2 the cat; b's left half is a cat that was taken for a dog."""
    labels = LabelMap.from_classes(("dog", "cat"))
    write_labelmap(tmp_path / "gt" / "labelmap.txt", labels)
    write_label(tmp_path / "gt" / "a.png", np.repeat([[2] * 8 + [0] * 8], 8, axis=0), labels)
    write_label(tmp_path / "gt" / "sub" / "b.png", np.full((8, 16), 2), labels)
    return tmp_path / "gt"


@pytest.mark.parametrize("inner", ["", "SegmentationClass"])
def test_an_output_folder_explains_itself(out, inner):
    found = predictions_in(out / inner)
    assert found.folder == out / "SegmentationClass"
    assert found.requested == ("cat", "dog")
    assert found.background is True


def test_the_last_run_is_found_again(out, store):
    found = last_predictions(store)
    assert found.folder == out / "SegmentationClass"
    assert found.run_id == store.last_run().id
    assert found.finished


def test_scores_go_by_name(out, gt):
    report = evaluate(predictions_in(out), gt)
    scores = {score.name: score.iou for score in report.classes}
    assert scores == pytest.approx({"background": 1.0, "cat": 2 / 3, "dog": 0.0})
    assert report.miou == pytest.approx(5 / 9)
    assert report.images == 2


def test_some_classes_only(out, gt):
    report = evaluate(predictions_in(out, classes=["CAT"], background=False), gt)
    assert [score.name for score in report.classes] == ["cat"]
    with pytest.raises(UsageError, match=r"not asked for 'bird'; they hold cat, dog\.$"):
        predictions_in(out, classes=["bird"])
    with pytest.raises(UsageError, match=r"not asked for 'dogs'.*Did you mean 'dog'\?"):
        predictions_in(out, classes=["dogs"])


def test_no_run_names_both_ways_out(store):
    for nothing in (store, None):
        with pytest.raises(NoInputError, match=r"--pred DIR.*--images DIR"):
            last_predictions(nothing)


def test_a_run_whose_folder_is_gone_is_told(out, store):
    shutil.rmtree(out)
    with pytest.raises(NoInputError, match=r"out, which is gone"):
        last_predictions(store)


def test_a_foreign_folder_needs_a_label_map(out, tmp_path):
    foreign = tmp_path / "elsewhere" / "masks"
    shutil.copytree(out / "SegmentationClass", foreign)
    with pytest.raises(LabelError, match=r"labelmap\.txt.*--label-map"):
        predictions_in(foreign)
    found = predictions_in(foreign, label_map=out / "labelmap.txt")
    assert found.requested == ("cat", "dog")


def test_no_folder_is_told(tmp_path):
    with pytest.raises(LabelError, match="There is no folder"):
        predictions_in(tmp_path / "nowhere")


class TestScoreFolder:
    """What `ovseg_cli.evaluate_folder` hands on."""

    @pytest.fixture
    def folders(self, tmp_path):
        labels, regions = LabelMap.from_classes(["cat", "dog"]), LabelMap.from_classes(["region 1", "region 2"])
        truth = np.array([[1, 1, 1, 2, 2, 2]])
        for name, ids, names in (("gt", truth, labels), ("pred", np.array([[2, 1, 1, 2, 2, 1]]), labels)):
            write_label(tmp_path / name / "a.png", ids, names)
            write_labelmap(tmp_path / name / "labelmap.txt", names)
        write_label(tmp_path / "areas" / "a.png", 3 - truth, regions)
        write_labelmap(tmp_path / "areas" / "labelmap.txt", regions)
        return tmp_path

    def test_oracles_and_bands(self, folders):
        report = evaluate_folder(folders / "gt", folders / "pred", oracles=["regions"], boundary=True, draws=0)
        assert report.miou == 0.5
        assert [(bound.oracle, bound.figures[0].value) for bound in report.oracles] == [("regions", 1)]
        assert report.figure("boundary_miou").value == 0.5
        assert report.figure("miou").interval is None

    def test_regions(self, folders):
        report = evaluate_folder(folders / "gt", folders / "areas", match="image")
        assert (report.miou, report.match) == (1, "image")
        some = evaluate_folder(folders / "gt", folders / "areas", ["dog"], match="image", background=False)
        assert [score.name for score in some.classes] == ["dog"]

    def test_what_there_is_not(self, folders):
        with pytest.raises(UsageError, match="Did you mean 'names'"):
            evaluate_folder(folders / "gt", folders / "pred", oracles=["name"])
        with pytest.raises(UsageError, match="not 'picture'"):
            evaluate_folder(folders / "gt", folders / "pred", match="picture")
        with pytest.raises(UsageError, match="exclude each other"):
            evaluate_folder(folders / "gt", folders / "areas", match="image", oracles=["names"])
