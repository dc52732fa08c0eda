"""Which feature cells the score of a pixel comes from.

Every score of a pixel is a weighted mean of cosines. The label map enlarges the fused scores bilinearly, these are the
mean over the crops that cover a place, and each crop's are its feature cells' enlarged bilinearly. All of that is
linear, so that a pixel's score is a sum over a few cells of a few crops, with weights that do not depend on the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovseg_cli.labeling.windows import Crop


def taps(length: int, wanted: int, place: int) -> list[tuple[int, float]]:
    """Which of `length` values a bilinear resizing to `wanted` values mixes at one place, and how much of each.

    As ``interpolate(mode="bilinear", align_corners=False)`` does, without antialiasing.

    Returns:
        One or two (index, weight), of sum 1.
    """
    source = max((place + 0.5) * (length / wanted) - 0.5, 0.0)
    first = min(int(source), length - 1)
    weight = source - first
    if weight == 0 or first == length - 1:
        return [(first, 1.0)]
    return [(first, 1 - weight), (first + 1, weight)]


def cell_weights(
    point: tuple[int, int],
    *,
    size: tuple[int, int],
    canvas: tuple[int, int],
    crops: Sequence[Crop],
    grids: Sequence[tuple[int, int]],
) -> dict[int, dict[tuple[int, int], float]]:
    """How much each feature cell counts for the score of a pixel.

    Args:
        point: (x, y) of the pixel.
        size: (H, W) of the picture.
        canvas: (h, w) of the resized picture, which was cut into crops.
        crops: The crops.
        grids: (rows, columns) of each crop's scores.

    Returns:
        For each crop that counts (by its place in `crops`): (row, column) of a cell to its weight. All together are 1.
    """
    x, y = point
    weights: dict[int, dict[tuple[int, int], float]] = {}
    for row, row_weight in taps(canvas[0], size[0], y):
        for column, column_weight in taps(canvas[1], size[1], x):
            covering = [i for i, crop in enumerate(crops) if _covers(crop, row, column)]
            for i in covering:
                crop, grid, cells = crops[i], grids[i], weights.setdefault(i, {})
                for r, down in taps(grid[0], crop.height, row - crop.top):
                    for c, right in taps(grid[1], crop.width, column - crop.left):
                        weight = row_weight * column_weight * down * right / len(covering)
                        cells[r, c] = cells.get((r, c), 0.0) + weight
    return weights


def _covers(crop: Crop, row: int, column: int) -> bool:
    return crop.top <= row < crop.top + crop.height and crop.left <= column < crop.left + crop.width
