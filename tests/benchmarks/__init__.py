"""Measurements of speed and memory (``python -m tests.benchmarks --list``). They are not tests: no time decides a run.

One module per benchmark, each with a `Benchmark` that `registry.py` lists. Every case runs in a process of its own,
so its peak memory is its own, and is compared with a baseline case of the same run: absolute seconds of one machine
mean little on another.
"""
