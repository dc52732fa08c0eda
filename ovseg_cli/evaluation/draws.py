"""Of the bootstrap: what nobody has to ask for. Apart, as the command line shows it in its help without numpy."""

from __future__ import annotations

DRAWS = 1000
"""Bootstrap draws unless another number is asked for: the limits of an interval are sure to a tenth of its length."""

SEED = 0
"""Of the draws, unless another is asked for."""

LEVEL = 0.95
"""How often an interval holds the figure of all pictures there are, unless another level is asked for."""
