"""Trained heads on the pictogram world: data, rows, seeds, and the table in README.md."""
