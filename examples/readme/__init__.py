"""Pictures of the README and of the pages; `python -m examples.readme` makes the first."""
