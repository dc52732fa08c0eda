from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest

from ovseg_cli.errors import ClassExistsError, ClassNameError, GenerationError, UsageError
from ovseg_cli.prototypes.support import OwnPicture
from ovseg_cli.runs.classes import (
    TOGETHER,
    ClassCraft,
    ClassItem,
    ClassJob,
    ClassMaker,
    _Planned,
    add_classes,
    plan_classes,
    stored_names,
    unique_names,
)
from ovseg_cli.runs.engines.options import EngineOptions, make_crew
from tests import doubles
from tests.mini import mini_models


@pytest.fixture
def models(profile, monkeypatch):
    doubles.install(monkeypatch.setattr, monkeypatch.setitem)
    return doubles.FakeModels(profile)


def make(store, models, *names, if_exists="error", **settings):
    plan = plan_classes(store, names, if_exists)
    return [a.info.name for a in add_classes(store, models, plan, doubles.SupportSettings(**settings))]


def test_classes_are_stored_one_by_one(store, models):
    plan = plan_classes(store, ["cat", "dog"], "error")
    making = add_classes(store, models, plan, doubles.SupportSettings())
    next(making)
    assert store.class_names() == ["cat"]
    next(making)
    assert store.class_names() == ["cat", "dog"]


def test_all_names_are_checked_before_the_first_is_made(store, models):
    with pytest.raises(ClassNameError):
        plan_classes(store, ["cat", "do/g"], "error")
    make(store, models, "dog")
    with pytest.raises(ClassExistsError, match=r"'dog'.*--if-exists skip.*--if-exists replace"):
        plan_classes(store, ["cat", "Dog"], "error")
    assert store.class_names() == ["dog"]


def test_skip_leaves_alone_and_replace_makes_anew(store, models):
    make(store, models, "cat", seed=1)
    assert make(store, models, "cat", "dog", if_exists="skip", seed=2) == ["dog"]
    assert store.get_class("cat").seed == 1
    assert make(store, models, "cat", if_exists="replace", seed=3) == ["cat"]
    assert store.get_class("cat").seed == 3


def test_an_interruption_keeps_what_was_finished_and_nothing_else(store, models, monkeypatch):
    def progress(name, step):
        if name == "dog":
            raise KeyboardInterrupt

    plan = plan_classes(store, ["cat", "dog"], "error")
    with pytest.raises(KeyboardInterrupt):
        list(add_classes(store, models, plan, doubles.SupportSettings(), progress=progress))
    assert store.class_names() == ["cat"]
    assert store.health().ok
    assert store.health().orphans == ()


@pytest.mark.parametrize("twice", [["cat", "cat"], ["cat", " Cat "], ["crème", "cre\u0300me"]])
def test_a_name_given_twice_is_refused(twice):
    with pytest.raises(UsageError, match="twice"):
        unique_names(twice)


def test_names_take_the_spelling_of_the_store(store, models):
    make(store, models, "Cat")
    assert stored_names(store, ["dog", "cAT"]) == ("dog", "Cat")


def test_a_semicolon_is_refused_like_a_comma(store):
    for name in ("cat;dog", "cat,dog"):
        with pytest.raises(ClassNameError, match="give each class on its own"):
            plan_classes(store, [name], "error")


class TestTheSamePictures:
    """A picture that a class holds already, by its content, is told and not taken again."""

    @pytest.fixture
    def extend(self, store, models, monkeypatch):
        taken = []
        build = sys.modules["ovseg_cli.prototypes.build"].build_class

        def recorded(models, name, settings, progress=None, *, pictures=None, **further):
            taken.append(None if pictures is None else [p.name for p in pictures])
            return build(models, name, settings, progress, pictures=pictures, **further)

        monkeypatch.setattr(sys.modules["ovseg_cli.prototypes.build"], "build_class", recorded)

        def go(*pictures):
            plan = plan_classes(store, ["cat"], "extend")
            (added,) = add_classes(store, models, plan, doubles.SupportSettings(), pictures=pictures)
            return added, taken

        return go

    def pictures_of(self, store):
        return [OwnPicture(f"old {s.position}", s.image) for s in store.read_class("cat").supports]

    def test_only_new_ones_are_taken(self, store, models, extend, caplog):
        make(store, models, "cat")
        new = OwnPicture("new", np.full((9, 9, 3), 77, np.uint8))
        added, taken = extend(*self.pictures_of(store), new, OwnPicture("copy of new", new.image.copy()))
        assert taken[-1] == ["new"]
        assert added.changed
        (record,) = caplog.records
        assert "3 of 4 pictures are left out" in record.getMessage()
        assert "old 0, old 1, copy of new" in record.getMessage()

    def test_without_a_new_one_the_class_stays_as_it_is(self, store, models, extend, caplog):
        make(store, models, "cat")
        before = store.get_class("cat")
        added, taken = extend(*self.pictures_of(store))
        assert taken == [None]
        assert not added.changed
        assert store.get_class("cat") == before
        assert "2 of 2 pictures" in caplog.text


class TestByWorkers:
    """Classes that other processes make, and this one stores."""

    @pytest.fixture
    def made(self, store):
        """Makes classes of few images with the bundled models, by two processes or by this one."""
        from ovseg_cli.prototypes.build import SupportSettings

        settings = SupportSettings(count=2, steps=2)

        def make(names, *, workers):
            plan = plan_classes(store, names, "replace")
            maker = make_crew(EngineOptions(workers=workers), "cpu")
            crew = maker and partial(maker, ClassCraft(mini_models().profile, "auto", settings), lambda _: None)
            return list(add_classes(store, None if crew else mini_models(), plan, settings, crew=crew))

        return make

    @pytest.mark.slow
    def test_are_those_that_this_process_makes_and_in_the_order_of_their_names(self, made, store):
        names = ["dog", "cat", "tree"]
        ours = {new.info.name: store.read_class(new.info.name) for new in made(names, workers=1)}
        theirs = made(names, workers=2)
        assert [new.info.name for new in theirs] == names
        for name in names:
            again = store.read_class(name)
            for one, other in zip(ours[name].prototypes, again.prototypes, strict=True):
                np.testing.assert_array_equal(one.vector, other.vector)
            for one, other in zip(ours[name].supports, again.supports, strict=True):
                np.testing.assert_array_equal(one.image, other.image)


def test_a_class_that_cannot_be_made_is_an_outcome_and_the_next_is_made(models, monkeypatch):
    def build(models, name, settings, progress=None, **own):
        if name == "dog":
            raise GenerationError("no foreground")
        return doubles.build_class(models, name, settings, progress)

    monkeypatch.setattr(sys.modules["ovseg_cli.prototypes.build"], "build_class", build)
    maker = ClassMaker(lambda: models, doubles.SupportSettings(), lambda _: None)
    job = ClassJob(3, (ClassItem("dog"), ClassItem("cat")))
    outcomes = list(maker.do(job))
    assert [(outcome.place, outcome.record is None) for outcome in outcomes] == [(3, True), (4, False)]
    assert str(outcomes[0].fault) == "no foreground"


class OnGpu(doubles.FakeModels):
    device = "cuda:0"


class TestTogether:
    """How many classes one worker gets at once."""

    @pytest.mark.parametrize(("kind", "batch"), [(doubles.FakeModels, 1), (OnGpu, TOGETHER)])
    def test_on_a_gpu_classes_share_batches(self, models, kind, batch):
        told = []
        maker = ClassMaker(lambda: kind(models.profile), doubles.SupportSettings(), told.append)
        maker.ready()
        assert maker.batch == told[0].batch == batch

    def test_jobs_are_of_so_many_classes_and_end_before_one_that_is_there(self, store, models, monkeypatch):
        names = [f"class {number}" for number in range(7)]
        work = _Planned(store, plan_classes(store, names, "error"), None)
        assert [(job.first, len(job.items)) for job in work.jobs(3)] == [(0, 3), (3, 3), (6, 1)]
        monkeypatch.setattr(_Planned, "_item", lambda _self, place, name: None if place in (2, 3) else ClassItem(name))
        assert [(job.first, len(job.items)) for job in work.jobs(3)] == [(0, 2), (4, 3)]
        assert [(job.first, len(job.items)) for job in work.jobs(1)] == [(0, 1), (1, 1), (4, 1), (5, 1), (6, 1)]

    @pytest.mark.parametrize(("kind", "jobs"), [(doubles.FakeModels, [1] * 5), (OnGpu, [4, 1])])
    def test_all_of_them_are_stored_in_their_order(self, store, models, monkeypatch, kind, jobs):
        names = [f"class {number}" for number in range(5)]
        given = []
        do = ClassMaker.do
        monkeypatch.setattr(ClassMaker, "do", lambda self, job: given.append(len(job.items)) or do(self, job))
        assert make(store, kind(models.profile), *names) == names
        assert given == jobs
