"""What went wrong in a study's training and is on record: collapsed attempts, failed runs, skipped steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.errors import counted, listed
from xtrain.files import read_json
from xtrain.graph import EVALUATE, Graph, Phase

COLLAPSED, LEFT_OUT = "collapsed", "left out"  # what the page says of a phase that did not finish


@dataclass(frozen=True)
class Troubles:
    """Of a study's phases, by hash."""

    graph: Graph
    out: Path
    failed: Mapping[str, str]
    """Phases given up -> the reason."""
    left_out: Mapping[str, str]
    """Phases that start from one that was given up -> that one's name."""
    attempts: Mapping[str, list[dict[str, Any]]]
    """Trainings that collapsed at least once -> the lines of their ``attempts.json``."""
    skipped: Mapping[str, int]
    """Finished trainings -> steps whose gradient was not finite, where there were any."""

    @classmethod
    def of(cls, graph: Graph, out: Path) -> Troubles:
        """Read from the run directories."""
        failed: dict[str, str] = {}
        left_out: dict[str, str] = {}
        attempts: dict[str, list[dict[str, Any]]] = {}
        skipped: dict[str, int] = {}
        for phase in graph.phases.values():  # parents come first
            run = phase.run_directory(out)
            if run.attempts.is_file():
                attempts[phase.hash] = read_json(run.attempts)
            if run.done:
                if number := read_json(run.done_marker).get("skipped_steps", 0):
                    skipped[phase.hash] = number
            elif run.failed:
                failed[phase.hash] = read_json(run.failed_marker)["reason"]
            elif phase.parent in failed:
                left_out[phase.hash] = graph.phases[phase.parent].name
            elif phase.parent in left_out:
                left_out[phase.hash] = left_out[phase.parent]
        return cls(graph, out, failed, left_out, attempts, skipped)

    def status(self, phase: Phase) -> tuple[str, str] | None:
        """Status and note of a phase that was given up or left out; None of any other."""
        if phase.hash in self.failed:
            return COLLAPSED, self.failed[phase.hash]
        if phase.hash in self.left_out:
            return LEFT_OUT, f"it starts from {self.left_out[phase.hash]}, which failed"
        return None

    def note(self, phase: Phase) -> str:
        """What is worth saying of a phase that finished; an empty string for most."""
        number = len(self.attempts.get(phase.hash, ()))
        return f"begun anew {_times(number)} after a collapse" if number else ""

    def lines(self) -> Iterator[str]:
        """Sentences for whoever reads the numbers: what failed, what was begun anew, what that makes of the seeds."""
        if not (self.failed or self.attempts or self.skipped):
            return
        phases = self.graph.phases
        trained = [phase for phase in phases.values() if phase.kind != EVALUATE]
        reseeded = [key for key in self.attempts if key not in self.failed]
        yield (
            f"{len(self.failed)} of {len(trained)} trainings failed, {len(reseeded)} were begun anew with another "
            f"seed; {sum(map(len, self.attempts.values()))} collapses in all"
        )
        for key, lines in self.attempts.items():
            tried = listed(f"seed {line['seed']} at step {line['collapsed_at']}" for line in lines)
            end = "given up" if key in self.failed else "then went well" if self._done(key) else "not finished yet"
            yield f"{phases[key].name} collapsed {_times(len(lines))} ({tried}), {end}"
        for key, reason in self.failed.items():
            if key not in self.attempts:
                yield f"{phases[key].name} failed: {reason}"
        for key, number in self.skipped.items():
            yield f"{phases[key].name}: {counted(number, 'step')} skipped: the gradient was not finite"
        yield from self._seeds()

    def _done(self, key: str) -> bool:
        return self.graph.phases[key].run_directory(self.out).done

    def _seeds(self) -> Iterator[str]:
        """Of each cell of the table that lost seeds: how many are left, for its numbers are over those alone."""
        planned: dict[str, set[int]] = {}
        lost: dict[str, set[int]] = {}
        for cell in self.graph.cells:
            name = f"{cell.row} / {cell.target}"
            planned.setdefault(name, set()).add(cell.seed)
            if cell.evaluation in self.failed or cell.evaluation in self.left_out:
                lost.setdefault(name, set()).add(cell.seed)
        for name, seeds in lost.items():
            left = len(planned[name]) - len(seeds)
            which = f"seed {listed(sorted(seeds))} failed"
            if left:
                yield f"{name}: over {left} of {counted(len(planned[name]), 'seed')} ({which})"
            else:
                yield f"{name}: no result ({which})"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
