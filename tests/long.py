"""Tests that run with XTRAIN_ALL_FAULTS=1 alone: more cases of what the others show. `make test` says how many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

ALL_FAULTS = bool(os.environ.get("XTRAIN_ALL_FAULTS"))
_LEFT_OUT = "left out"  # in what a worker of pytest-xdist tells at its end: test -> number of cases


def with_long(cases: Sequence[Any], more: Iterable[Any]) -> list[Any]:
    """Parameters of a test: ``cases``, and those of ``more`` that are not among them, marked as long."""
    found = list(cases)
    for case in more:
        if case not in found:
            found.append(case)
    marked = [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long) for case in found]
    return [*cases, *marked[len(cases) :]]


class LeaveOut:
    """A plugin: takes the long ones out, and says at the end which."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        long = [item for item in items if item.get_closest_marker("long")]
        self.counts = Counter(item.nodeid.partition("[")[0] for item in long)
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_LEFT_OUT] = dict(self.counts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.counts = (
            Counter(getattr(node, "workeroutput", {}).get(_LEFT_OUT)) or self.counts
        )  # the same of each worker

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.counts:
            return
        terminalreporter.section("only with XTRAIN_ALL_FAULTS=1")
        for test, count in sorted(self.counts.items()):
            terminalreporter.write_line(f"{count:4}  {test}")
        terminalreporter.write_line(f"{self.counts.total():4}  in all")
