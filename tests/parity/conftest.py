from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config, items):
    """The large ones run only where they are asked for by their marker."""
    if "parity" in config.option.markexpr:
        return
    large = [item for item in items if item.get_closest_marker("parity")]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request):
    """Remembers a difference; all of them are listed at the end of `make parity`, or with -v."""
    lines = request.config.stash.setdefault(TOLD, [])
    return lambda what, value: lines.append(f"{value:10.2e}  {request.node.name}  {what}")


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(TOLD, [])
    if lines and ("parity" in config.option.markexpr or config.option.verbose > 0):
        terminalreporter.section("largest differences from the published code")
        terminalreporter.write("\n".join(lines) + "\n")


def pytest_generate_tests(metafunc):
    # Not a fixture's parameters: those are read before the marker is known.
    if "size" in metafunc.fixturenames:
        sizes = ["narrow", pytest.param("true", marks=pytest.mark.parity)]
        metafunc.parametrize("size", sizes, scope="module")
