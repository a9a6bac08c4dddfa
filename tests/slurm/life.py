"""One training phase as a job of the test cluster: submitted, disturbed, and watched until it is done."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Cluster
from runs import events, reached, write_runs
from toy import PROJECT

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.local import run_ranks
from xtrain.dispatch.submissions import JobFolder
from xtrain.dispatch.submit_job import Behind, submit_job
from xtrain.phase import PhaseFile
from xtrain.run_directory import RunDirectory
from xtrain.starter import cache_folder

STEPS, SAVE_EVERY = 24, 5
PACE = "0.25,0.02"  # seconds of a step in the first attempt, which is disturbed, and in later ones
HERE = Path(__file__).parent
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}


def settings(steps: int = STEPS) -> dict[str, Any]:
    """A study of one training phase and its evaluation."""
    recipe = {"max_steps": steps, "batch_size": 12, "max_length": 64, "learning_rate": 1e-3, "eval_every": 1000,
              "eval_examples": 0, "collapse_window": 1000}  # fmt: skip
    return {
        "intermediate": [{"name": "none"}],
        "target": [{"task": "toy", "languages": ["en"]}],
        "recipe": {"target": recipe},
        "engine": {"ds_config": "zero2", "log_every": 1, "checkpoint_every": SAVE_EVERY, "tokens_per_micro_batch": 512},
    }


def profile(folder: Path, *, pace: str = PACE, job: Mapping[str, Any] = {}, **tables: Any) -> Profile:
    """Two nodes of one rank each; ranks take ``pace`` seconds longer for a step, by attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *train.py*) exec {sys.executable} -u {HERE / "paced.py"} "$@";; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    mapping = {
        "scheduler": "slurm",
        "name": "lab",
        "job": {"partition": "main", "nodes": 2, "tasks_per_node": 1, "cpus_per_task": 1, "time_limit": 10, **job},
        "preemption": {"lead_seconds": 20, **tables.pop("preemption", {})},
        "environment": {"python": str(python), "variables": {**ENVIRONMENT, "XTRAIN_TEST_PACE": pace}},
        "storage": {"cache": str(cache_folder())},
        **tables,
    }
    return Profile.from_mapping(mapping)


@dataclass
class Life:
    """The phase's run directory, and its job."""

    cluster: Cluster
    path: Path
    node: JobNode
    profile: Profile
    job: str = ""
    reached_at: int = 0
    disturbed: float = 0.0

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.path)

    def submit(self) -> Life:
        """Put the job into the queue."""
        out = self.path.parents[1]
        graph = JobGraph(f"life-{self.node.hash}", (self.node,), self.profile.to_mapping())
        graph.write(out)
        self.job = submit_job(JobFolder(self.run), self.profile, self.node, graph, Behind(), lane=0).job
        return self

    def wait_step(self, step: int, seconds: float = 120) -> Life:
        """Until so many steps are recorded."""
        self._wait(lambda: reached(self.path) >= step, seconds, f"step {step}")
        return self

    def disturb(self, what: Callable[[], object]) -> Life:
        """Do something to it, and remember how far it was."""
        what()
        self.reached_at, self.disturbed = reached(self.path), time.monotonic()
        return self

    def recover(self, attempt: int, seconds: float = 180) -> float:
        """Until attempt ``attempt`` has made a step; seconds since the disturbance."""
        self._wait(lambda: self.attempts() >= attempt and self._new_step(), seconds, f"a step of attempt {attempt}")
        return self.since()

    def since(self) -> float:
        """Seconds since the disturbance."""
        return time.monotonic() - self.disturbed

    def _new_step(self) -> bool:
        """Whether the newest start has made a step."""
        lines = events(self.path)
        begun = [event for event in lines if event["event"] in ("begin", "resume")]
        return self.run.done or (
            sum(event["event"] == "start" for event in lines) >= self.attempts()
            and bool(begun)
            and reached(self.path) > begun[-1]["step"]
        )

    def wait_done(self, seconds: float = 240) -> Life:
        self._wait(lambda: self.run.done, seconds, "DONE")
        return self

    def attempts(self) -> int:
        return Attempts(self.run).newest()

    def resumed_at(self) -> list[int]:
        """The steps that later starts went on from."""
        return [event["step"] for event in events(self.path) if event["event"] in ("begin", "resume")][1:]

    def steps_lost(self) -> int:
        """Steps that were done when it was disturbed, and had to be done again by the next start."""
        later = self.resumed_at()
        return max(0, self.reached_at - later[-1]) if later else 0

    def _wait(self, there: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not there():
            ended = JobFolder(self.run).ended()
            assert ended is None or self.run.done, f"{ended}\n{self.story()}"
            assert time.monotonic() < end, f"no {what}\n{self.story()}"
            time.sleep(0.05)

    def story(self) -> str:
        """What there is to tell of a run that went wrong."""
        parts = [f"job {self.job}: {self.cluster.job_states().get(self.job)}"]
        for path in [*sorted(self.path.glob("job/submitit/*.out")), *sorted(self.path.glob("logs/*.log"))]:
            parts.append(f"== {path.name}\n{path.read_text('utf-8', errors='replace')[-3000:]}")
        parts.append("\n".join(str(event) for event in events(self.path)[-12:]))
        return "\n".join(parts)


def make_life(cluster: Cluster, root: Path, base: Path, data: Path, *, steps: int = STEPS, **options: Any) -> Life:
    """A phase that is ready to be submitted; ``options`` are those of :func:`profile`."""
    path = write_runs(root, base, data, settings(steps))[0]
    phase = PhaseFile.read(RunDirectory(path))
    folder = str(path.relative_to(root / "out"))
    node = JobNode(phase.hash, phase.kind, phase.name, f"life/{root.name}", folder)
    return Life(cluster, path, node, profile(root / "profile", **options))


def run_alone(root: Path, base: Path, data: Path, *, ranks: int = 2, steps: int = STEPS) -> Path:
    """The same phase on this machine, by as many ranks, undisturbed; its run directory."""
    path = write_runs(root, base, data, settings(steps))[0]
    before = {key: os.environ.get(key) for key in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        command = [sys.executable, "-u", str(PROJECT / "train.py"), str(path)]
        assert run_ranks(command, ranks, path / "logs") is None
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    return path
