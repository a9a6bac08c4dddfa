"""Starts ranks quickly: a process that has imported everything once, and forks a rank wherever one is wanted.

Reads one JSON object a line from its input: ``{"run", "ranks", "fault", "logs", "environment"}``, and answers
with two lines: ``{"pids": [...]}`` as soon as the ranks run, ``{"codes": [...]}`` when all have ended (negative: the
signal). A rank is what ``python train.py RUN`` is, with a fault built in where the job names one (see faults.py). The
ranks of a job are a process group of their own. There is no launcher that would end the others when one has died.
With ``{"worker", "arguments"}`` in the place of ``run`` they run a test's own file.
For ``{"command", ...}`` there is: then it forks one process, which is ``python -m xtrain COMMAND`` (see command.py).
"""

from __future__ import annotations

import gc
import json
import math
import os
import runpy
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import command
import disk_faults  # noqa: F401 - it adds to the faults
import faults
import rank_faults  # noqa: F401 - it adds to the faults
import torch
import torch._dynamo  # ZeRO-3 and torch's optimizer ask for it, which is most of a rank's start

from xtrain.dispatch.rank_process import leave
from xtrain.dispatch.rendezvous import LocalRanks
from xtrain.phase import entry
from xtrain.training.engine import import_deepspeed

LEFT_SECONDS = 60.0  # a rank that is still there so long after the first has failed is killed, and shows as such
JOB_SECONDS = 280.0  # and so does a job that takes longer


def main() -> None:
    """Serve jobs until the input ends, or an empty one comes."""
    torch.set_num_threads(1)
    deepspeed = import_deepspeed()
    _ = deepspeed.ops.__compatible_ops__  # asks the compiler what it can build
    gc.freeze()  # a rank that collects garbage would copy every page of what was imported
    for line in sys.stdin:
        job = json.loads(line)
        if not job:
            return
        pids: list[int] = []
        if "command" in job:
            pids.append(os.fork())
            if not pids[0]:
                command.be_the_command(job)
        else:
            start_ranks(job, pids)
        print(json.dumps({"pids": pids}), flush=True)
        print(json.dumps({"codes": wait_for(pids)}), flush=True)


def start_ranks(job: dict[str, Any], pids: list[int]) -> None:
    """Fork the ranks of a job; ``pids`` gets their numbers."""
    with LocalRanks(job["ranks"]) as place:
        for rank in range(job["ranks"]):
            pid = os.fork()
            if pid == 0:
                be_a_rank(job, rank, place)
            os.setpgid(pid, pids[0] if pids else pid)
            pids.append(pid)


def wait_for(pids: list[int]) -> list[int]:
    """The exit codes of all, in order."""
    codes: dict[int, int] = {}
    began, failed = time.monotonic(), 0.0
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                    failed = failed or (time.monotonic() if codes[pid] else 0.0)
                elif time.monotonic() > min(began + JOB_SECONDS, failed + LEFT_SECONDS if failed else math.inf):
                    os.kill(pid, 9)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def be_a_rank(job: dict[str, Any], rank: int, place: LocalRanks) -> NoReturn:
    """What train.py does, in this forked process."""
    try:
        log = os.open(f"{job['logs']}/rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update({**place.environment(rank), **job["environment"]})
        if rank:
            place.socket.close()
        if "worker" in job:
            sys.argv = [job["worker"], *job["arguments"]]
            sys.path.insert(0, str(Path(job["worker"]).parent))
            runpy.run_path(job["worker"], run_name="__main__")  # in run_rank, which ends the process
        if rank == 0:
            faults.keep_time(Path(job["logs"]) / "beginning.json")
        if job["fault"]:
            faults.build_in(rank=rank, **job["fault"])
        entry.main([job["run"]])
    except BaseException:
        traceback.print_exc()
    leave(99)


if __name__ == "__main__":
    main()
