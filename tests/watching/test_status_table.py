"""The status as a table that fits the terminal, and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from by_hand import Run, every_state, graph
from rich.console import Console

from xtrain.dispatch.slurm import Answer
from xtrain.tracking.progress import duration
from xtrain.watching.state import observe
from xtrain.watching.studies import Observed
from xtrain.watching.table import as_json, show


@pytest.fixture
def life(tmp_path: Path) -> Observed:
    study, states = every_state(tmp_path)
    answer = Answer(states)
    return Observed(study, observe(tmp_path, study, answer), answer)


def shown(observed: Observed, width: int, *, color: bool = False) -> list[str]:
    stream = io.StringIO()
    show(
        [observed], Console(file=stream, width=width, force_terminal=color, color_system="standard" if color else None)
    )
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 160, 240])
def test_a_line_a_phase_at_any_width(life: Observed, width: int) -> None:
    lines = shown(life, width)
    table = lines[: 2 + len(life.states)]
    assert all(len(line) <= width for line in table)
    assert len(lines) == 2 + len(life.states) + 2
    heads = table[1].split()
    assert heads[:2] == ["phase", "state"]
    assert heads[-1] == "news"


def test_columns_give_way_on_a_narrow_terminal(life: Observed) -> None:
    wide, narrow = shown(life, 160)[1].split(), shown(life, 80)[1].split()
    assert wide == ["phase", "state", "job", "nodes", "tries", "step", "loss", "tokens/s", "ETA", "news"]
    assert set(narrow) < set(wide)
    assert "ETA" in narrow
    assert "step" in narrow


def test_what_starts_from_a_phase_stands_below_it(life: Observed) -> None:
    names = [line.rstrip()[:24].rstrip() for line in shown(life, 160)[2:]]
    at = names.index("mnli-s0")
    assert names[at : at + 5] == [
        "mnli-s0",
        "  mnli-s0/xnli",
        "    mnli-s0/xnli/evaluat",
        "  mnli-s0/pawsx",
        "    mnli-s0/pawsx/evalua",
    ]


def test_what_the_lines_say(life: Observed) -> None:
    text = "\n".join(shown(life, 200))
    for part in (
        "140/400  0.014     5,120",
        "saved step 100",
        "score 71.25, done",
        "45%           12,345",
        "waits for none-s0/pawsx",
        "data/phang/train-en.jsonl:7: label 'maybe'",
        "5 done, 2 running, 1 restarting, 1 waiting, 6 held, 5 to do, 1 lost, 2 failed, 8 cancelled",
        "python -m xtrain why phang/qnli-s0",
    ):
        assert part in text, part


def test_states_are_coloured_on_a_terminal_alone(life: Observed) -> None:
    assert "\x1b[1;31mfailed" in "\n".join(shown(life, 120, color=True))
    assert "\x1b" not in "\n".join(shown(life, 120))


def test_names_with_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("[red]x[/]",))
    Run(study.nodes[1], tmp_path).event("failed", error="[bold]no[/bold]")
    observed = Observed(study, observe(tmp_path, study, Answer()))
    text = "\n".join(shown(observed, 160))
    assert "none-s0/[red]x[/]" in text


def test_whoever_did_not_answer_is_named(tmp_path: Path) -> None:
    study, _ = every_state(tmp_path)
    answer = Answer({}, {"squeue": "squeue did not answer within 0.6 s"})
    observed = Observed(study, observe(tmp_path, study, answer), answer)
    assert "squeue did not answer within 0.6 s" in "\n".join(shown(observed, 120))


def test_everything_is_in_the_json(life: Observed, tmp_path: Path) -> None:
    value = json.loads(json.dumps(as_json(tmp_path, [life]), allow_nan=False))
    (study,) = value["studies"]
    phases = {phase["job_name"]: phase for phase in study["phases"]}
    running = phases["phang/none-s0/pawsx"]
    assert [running[key] for key in ("state", "job", "nodes", "attempts", "step", "planned_steps")] == [
        "running", "103", "n[1-2]", 1, 140, 400,
    ]  # fmt: skip
    assert running["event"] == "saved step 100"
    assert running["event_age_seconds"] > 0
    assert running["queue"]["state"] == "RUNNING"
    assert phases["phang/none-s0/xnli"]["parents"] == ["phang/prepare"]
    assert study["totals"]["failed"] == 2


def test_durations() -> None:
    words = [duration(seconds) for seconds in (0.4, 59, 130, 3720, 90_000)]
    assert words == ["0s", "59s", "2m10s", "1h02m", "1d01h"]
