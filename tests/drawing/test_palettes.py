from __future__ import annotations

import doctest

import numpy as np
import pytest

from ovseg_cli.cli.demo import DEMO_CLASSES
from ovseg_cli.drawing import palettes
from ovseg_cli.drawing.palettes import class_colour, for_display
from ovseg_cli.files.labels import LabelMap, voc_colour
from ovseg_cli.pages.run_page import EIGHT
from tests.files.published_classes import VOC

# Of linear RGB, as seen without the cones for green (Viénot et al. 1999; Machado et al. 2009, full severity).
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def nearest_pair(named, *, deuteranopia):
    """The smallest difference between two colours in OKLab, as everybody or some people see it."""
    srgb = np.array(named) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if deuteranopia:
        linear = np.clip(linear @ DEUTERANOPIA.T, 0, 1)
    cones = np.cbrt(linear @ np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]).T)
    lab = cones @ np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]).T
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return distances[~np.eye(len(named), dtype=bool)].min()


def test_examples_in_docstrings():
    assert doctest.testmod(palettes).failed == 0


@pytest.mark.parametrize("names", [VOC, DEMO_CLASSES], ids=["voc", "demo"])
@pytest.mark.parametrize("deuteranopia", [False, True])
def test_classes_are_told_apart_better_than_in_vocs_palette(names, deuteranopia):
    ours = nearest_pair([class_colour(name) for name in names], deuteranopia=deuteranopia)
    vocs = nearest_pair([voc_colour(i) for i in range(1, len(names) + 1)], deuteranopia=deuteranopia)
    assert ours > 1.1 * vocs


@pytest.mark.parametrize("deuteranopia", [False, True])
def test_the_eight_colours_of_a_page_are_told_apart_more_than_twice_as_well_as_those_of_many_classes(deuteranopia):
    names = nearest_pair([class_colour(name) for name in VOC], deuteranopia=deuteranopia)
    assert nearest_pair(EIGHT, deuteranopia=deuteranopia) > 2 * names


def test_spelling_makes_no_difference():
    assert class_colour("Crème  Brûlée") == class_colour("crème brûlée")


def test_the_background_keeps_its_colour_and_ids_their_names():
    shown = for_display(LabelMap(names=("background", "cat"), ids=(0, 7)))
    assert shown.colours == ((0, 0, 0), class_colour("cat"))
    assert shown.ids == (0, 7)
    assert shown.name_of(7) == "cat"
