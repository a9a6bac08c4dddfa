"""The page's section on training: what each phase was and cost, its curves, and the time line of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from xtrain.errors import counted
from xtrain.report.compute import Compute, PhaseCompute
from xtrain.report.curves import Training, training_curves
from xtrain.report.figures import Curve, data_uri
from xtrain.report.timeline import time_line

FINISHED = "finished"  # any other status of a phase is a failure, and is counted and listed
MOST_DRAWN = 24  # figures of curves on the page; the others are exported
OPEN_TABLE = 40  # phases; a longer table has to be opened
_FIRST = ("intermediate", "target")  # which kinds are drawn before others


@dataclass(frozen=True)
class PhaseSummary:
    """One phase of the study, for the page's section on training."""

    name: str
    kind: str = ""
    """``intermediate``, ``target``, or ``evaluate``."""
    seed: int | None = None
    status: str = FINISHED
    """``finished``, or what happened instead: ``failed``, ``collapsed``, ``skipped``."""
    note: str = ""
    """The reason, where it did not finish; anything worth saying, where it did."""
    steps: int | None = None
    selected_step: int | None = None
    seconds: float | None = None
    """Wall time of all attempts."""
    tokens_per_second: float | None = None
    curve: Curve | None = None
    """The training loss; curves of phases with the same name are drawn together."""
    task_losses: Sequence[Curve] = ()
    """The same of each task in a mixture, labelled with it."""
    dev: Sequence[Curve] = ()
    """The scores on dev, as :class:`~xtrain.report.curves.Training` has them."""
    compute: PhaseCompute | None = None
    """Its attempts; None where nothing is on record."""

    @property
    def training(self) -> Training | None:
        """What is drawn of it; a single point is no curve."""
        if self.curve is None or len(self.curve.steps) < 2:
            return None
        return Training(self.curve.label, self.task_losses or (self.curve,), self.dev, self.selected_step)

    @property
    def remarkable(self) -> bool:
        """Whether its curve is worth more than others: it failed, or began again."""
        again = self.compute is not None and bool(self.compute.interrupted)
        return self.status != FINISHED or bool(self.note) or again


@dataclass(frozen=True)
class TrainingSection:
    """What stands in the section beside the table of phases."""

    curves: Sequence[tuple[str, str]]
    """(phase, data URI)."""
    left_out: int
    """Phases that have curves and are not drawn."""
    time_line: str
    """A data URI; empty where nothing is on record."""
    alt: str
    """What the time line is, for a reader who cannot see it."""
    open_table: bool

    @classmethod
    def of(cls, phases: Sequence[PhaseSummary], compute: Compute | None) -> TrainingSection:
        """Draw what there is to draw."""
        groups = curve_groups(phases)
        drawn = _drawn(phases, groups)
        line = time_line(compute.phases) if compute is not None else None
        alt = ""
        if compute is not None and line is not None:
            again = sum(bool(phase.interrupted) for phase in compute.phases)
            alt = (
                f"Time line of {counted(len(compute.attempts), 'attempt')} at {counted(compute.num_phases, 'phase')}, "
                f"of which {again} began again."
            )
        return cls(
            [(name, data_uri(training_curves(groups[name]))) for name in drawn],
            len(groups) - len(drawn),
            data_uri(line) if line is not None else "",
            alt,
            len(phases) <= OPEN_TABLE,
        )


def curve_groups(phases: Sequence[PhaseSummary]) -> dict[str, list[Training]]:
    """The trainings of each name, seeds together."""
    groups: dict[str, list[Training]] = {}
    for phase in phases:
        if phase.training is not None:
            groups.setdefault(phase.name, []).append(phase.training)
    return groups


def training_figures(phases: Sequence[PhaseSummary], compute: Compute | None) -> dict[str, Figure]:
    """All figures of the section by name, those that the page leaves out as well."""
    figures = {f"training {name}": training_curves(group) for name, group in curve_groups(phases).items()}
    line = time_line(compute.phases) if compute is not None else None
    return {**figures, **({"time line": line} if line is not None else {})}


def _drawn(phases: Sequence[PhaseSummary], groups: Mapping[str, object]) -> list[str]:
    """The names that the page draws, in the study's order: of what is remarkable, then of intermediate phases."""
    by_name: dict[str, list[PhaseSummary]] = {}
    for phase in phases:
        by_name.setdefault(phase.name, []).append(phase)
    names = list(groups)

    def order(name: str) -> tuple[bool, int, int]:
        mine = [phase for phase in by_name[name] if phase.training is not None]
        kind = _FIRST.index(mine[0].kind) if mine[0].kind in _FIRST else len(_FIRST)
        return not any(phase.remarkable for phase in mine), kind, names.index(name)

    chosen = set(sorted(names, key=order)[:MOST_DRAWN])
    return [name for name in names if name in chosen]
