"""How the bundled mini models are made: the pictogram world that they know."""
