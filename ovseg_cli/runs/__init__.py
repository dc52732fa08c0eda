"""Folder runs: plan, resume, journal, evaluation, and the making of several classes in a row."""
