"""Figures in sentences."""

from __future__ import annotations


def figure_beside(value: float, limit: float, digits: int = 3) -> tuple[str, str]:
    """A figure and a limit that it is on one side of, as text of which that is true as well.

    >>> figure_beside(0.31, 0.5), figure_beside(0.47754, 0.4776), figure_beside(0.5, 0.5)
    (('0.310', '0.5'), ('0.4775', '0.4776'), ('0.500', '0.5'))

    Args:
        value: The figure.
        limit: What it is compared with.
        digits: How many digits it has behind the point, if they are enough.

    Returns:
        The figure and the limit.
    """
    bound = f"{limit:g}" if float(f"{limit:g}") == limit else repr(limit)
    for count in range(digits, 17):
        text = f"{value:.{count}f}"
        if (float(text) < limit, float(text) > limit) == (value < limit, value > limit):
            return text, bound
    return repr(value), bound
