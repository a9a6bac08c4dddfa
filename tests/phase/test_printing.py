"""Printing where nothing can be printed: /dev/full refuses every byte, as a full disk does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from toy import PROJECT

PRINTS = """
import os, sys
{forgive}
print("one")
print("two", flush=True)
print("three", file=sys.stderr, flush=True)
sys.stdout.write("four")
sys.stdout.flush()
"""
FORGIVE = "from xtrain.phase.printing import forgive_failed_prints; forgive_failed_prints()"


def run(forgive: str, *options: str, out: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", PRINTS.format(forgive=forgive)]
    if out:
        with open(out, "w") as handle:
            return subprocess.run(command, cwd=PROJECT, stdout=handle, stderr=handle, text=True)
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_full_disk_is_forgiven(options: list[str]) -> None:
    assert run("", *options, out="/dev/full").returncode != 0, "printing there is no problem at all"
    assert run(FORGIVE, *options, out="/dev/full").returncode == 0


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_all_arrives_where_it_can(options: list[str]) -> None:
    result = run(FORGIVE, *options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "one\ntwo\nfour", "three\n")
