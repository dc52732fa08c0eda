"""Worked examples that come with ovseg; see README.md beside this file."""
