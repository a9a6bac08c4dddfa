"""The time line: a line a phase while they fit, lanes beyond; restarts with their reason; idle times cut short."""

from __future__ import annotations

import pytest

from xtrain.report.compute import PhaseCompute
from xtrain.report.figures import svg
from xtrain.report.timeline import MOST_LINES, MOST_NAMED, Clock, layout, note, time_line
from xtrain.watching.starts import StartUsage


def start(began: float, seconds: float, how: str = "done", number: int = 1, **more: object) -> StartUsage:
    return StartUsage(number, "", began, seconds, how, ranks=1, **more)  # type: ignore[arg-type]


def phase(name: str, *starts: StartUsage, kind: str = "target", seed: int = 0) -> PhaseCompute:
    return PhaseCompute(name, kind, seed, starts)


def again(name: str, began: float, how: str = "killed", kind: str = "target") -> PhaseCompute:
    lost = start(began, 100, how, lost_seconds=50.0, nodes=("n1",))
    return phase(name, lost, start(began + 200, 100, number=2, nodes=("n2",)), kind=kind)


def test_few_phases_have_a_line_each_by_kind_and_time() -> None:
    lines = layout(
        [phase("b", start(50, 10)), phase("i", start(0, 40), kind="intermediate"), phase("a", start(45, 10))]
    )
    assert [line.label for line in lines] == ["i, seed 0", "a, seed 0", "b, seed 0"]
    assert not any(line.lane for line in lines)


def test_many_phases_share_lanes_and_those_that_began_again_are_named() -> None:
    quiet = [phase(f"row/task{n}", start(1000.0 * (n // 4) + n % 4, 900)) for n in range(320)]
    troubled = [again(f"odd/task{n}", 10_000.0 * n) for n in range(3)]
    intermediate = [phase(f"row{n}", start(0.0, 500), kind="intermediate") for n in range(2)]
    lines = layout([*intermediate, *quiet, *troubled])
    assert [line.label for line in lines if line.label] == [
        "2 intermediate phases", "odd/task0, seed 0", "odd/task1, seed 0", "odd/task2, seed 0",
        "320 other target phases",
    ]  # fmt: skip
    assert sum(line.lane for line in lines) == 2 + 4, "as many lanes as phases ran at once"
    assert sum(len(line.phases) for line in lines) == 325, "none is left out"


def test_where_too_many_began_again_the_rest_is_counted() -> None:
    phases = [again(f"p{n}", 1000.0 * n) for n in range(MOST_LINES + 10)]
    lines = layout(phases)
    assert sum(not line.lane for line in lines) == MOST_NAMED
    (said,) = [line.note for line in lines if line.lane and line.note]
    assert said == f"{MOST_LINES + 10 - MOST_NAMED} of them began again"


def test_a_line_says_why_and_where() -> None:
    three = phase("x", start(0, 9, "killed", nodes=("n1", "n2")), start(10, 9, "killed", nodes=("n1", "n2")),
                  start(20, 9, "preempted", nodes=("n3",)), start(30, 9, nodes=("n1", "n2")))  # fmt: skip
    assert note(three) == "killed 2 times, preempted; n1, n2, then n3, then…"
    assert note(phase("x", start(0, 9, nodes=("n1",)))) == "n1"
    assert note(phase("x", start(0, 9, nodes=tuple(f"n{n}" for n in range(8))))) == "n0 and 7 more"
    assert note(phase("x", start(0, 9))) == ""


def test_long_idle_times_are_cut_and_short_ones_are_not() -> None:
    day = 86_400.0
    clock = Clock([start(0, 3600), start(3700, 3500), start(10 * day, 7200)])
    assert clock(3600) == 3600
    assert clock(3700) == 3700, "100 s are no gap"
    ((place, seconds),) = clock.cuts
    assert seconds == pytest.approx(10 * day - 7200)
    assert 7200 < place < clock(10 * day)
    assert clock(10 * day + 7200) - clock(10 * day) == 7200
    assert clock.end < 15_500
    places = [at for at, _ in clock.ticks()]
    assert places == sorted(places)
    assert all(0 <= at <= clock.end for at in places)
    assert clock.unit == "hour"


@pytest.mark.parametrize(("seconds", "unit"), [(100.0, "minute"), (20_000.0, "hour"), (500_000.0, "day")])
def test_the_unit_fits_the_time_that_was_used(seconds: float, unit: str) -> None:
    clock = Clock([start(5, seconds)])
    assert clock.unit == unit
    assert 2 <= len(clock.ticks()) <= 16


def test_the_figure_names_phases_reasons_and_nodes_and_repeats_itself() -> None:
    phases = [again("mnli/xnli", 0.0), phase("mnli", start(0, 50), kind="intermediate"), phase("later")]
    figure = time_line(phases)
    assert figure is not None
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "mnli/xnli, seed 0" in texts
    assert "killed; n1, then n2" in texts
    assert "later, seed 0" not in texts, "it has not begun"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["intermediate", "target", "killed"]
    again_drawn = time_line(phases)
    assert again_drawn is not None
    assert svg(figure) == svg(again_drawn)
    assert figure.get_size_inches()[0] * 96 <= 1100
    assert time_line([phase("later")]) is None


def test_an_attempt_of_no_length_is_drawn() -> None:
    figure = time_line([phase("a", start(0, 0.0, "failed"))])
    assert figure is not None
    assert len(svg(figure)) > 1000
