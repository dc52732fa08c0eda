"""Ctrl-C and SIGTERM at every instant: exit code 130 or 143, whatever the process is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import Process, heed_ctrl_c

BOTH = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


def child(code: str) -> subprocess.Popen[str]:
    """A process that runs some code, and says on stdout when it is ready."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    rest, remarks = process.communicate(timeout=60)
    return process.returncode, rest, remarks


HEAD = "import sys, time\nfrom ovseg_cli.cli import signals\nsignals.install()\n"
READY = "print('ready', flush=True)\n"
SWALLOWED = """
class Lost:
    def __del__(self):
        print('ready', flush=True)
        time.sleep(30)
"""


@pytest.mark.parametrize(("number", "code", "word"), BOTH)
def test_before_a_command_the_process_ends_at_once(number, code, word):
    # As during the imports at the start: what a library makes of an exception there cannot matter.
    process = child(HEAD + READY + "try:\n    time.sleep(30)\nexcept BaseException:\n    print('caught')\n")
    assert end(process, number) == (code, "", f"error: {word}\n")


@pytest.mark.parametrize(("number", "code", "word"), BOTH)
def test_while_the_interpreter_ends(number, code, word):
    ending = "import atexit\natexit.register(lambda: (print('ready', flush=True), time.sleep(30)))\nsignals.leave(0)\n"
    assert end(child(HEAD + ending), number) == (code, "", "")


@pytest.mark.parametrize(("number", "code", "word"), BOTH)
def test_an_exception_that_a_destructor_swallows_is_raised_again(number, code, word):
    work = (
        "try:\n"
        "    with signals.working():\n"
        "        lost = Lost()\n"
        "        del lost\n"
        "        time.sleep(30)\n"
        "except KeyboardInterrupt as error:\n"
        "    print(type(error).__name__)\n"
        "signals.leave(0)\n"
    )
    done = end(child(HEAD + SWALLOWED + work), number)
    assert done[0] == code
    assert done[1] == {130: "KeyboardInterrupt\n", 143: "Terminated\n"}[code]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "word"), BOTH)
def test_handlers_are_left_in_peace_and_their_exit_code_does_not_count(number, code, word):
    work = (
        "try:\n"
        "    with signals.working():\n"
        "        try:\n"
        f"            {READY}"
        "            time.sleep(30)\n"
        "        finally:\n"
        "            time.sleep(1)\n"
        "            print('put in order')\n"
        "except KeyboardInterrupt:\n"
        "    pass\n"
        "signals.leave(5)\n"
    )
    assert end(child(HEAD + work), number) == (code, "put in order\n", "")


def test_without_a_signal_the_code_is_the_commands():
    assert subprocess.run([sys.executable, "-c", HEAD + "signals.leave(5)"], check=False).returncode == 5


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8, 1.2])
@pytest.mark.parametrize(("number", "code", "word"), BOTH)
def test_at_any_time_of_a_command(here, number, code, word, delay):
    process = Process("doctor", "-q")
    time.sleep(delay)
    if process.popen.poll() is None:
        process.popen.send_signal(number)
    result = process.result()
    # -number: the interpreter itself was still starting, which no program can change.
    assert result.exit_code in {code, -number} or (result.exit_code == 0 and result.stdout == "ok\n")
    assert "Aborted" not in result.stderr
