"""On each rank of test_joining.py: meet the others, say so, and end."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

from xtrain.dispatch.joining import NotMet, StoppedWaiting, join
from xtrain.dispatch.rank_process import leave, run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.dispatch.signals import Signals
from xtrain.errors import EXIT_PREEMPTED, EXIT_USER


def main() -> None:
    ranks = from_environment()
    with Signals(()) as signals:
        print("ready", flush=True)
        try:
            join(ranks, stop=lambda: signals.name, gpu=os.environ.get("GPU", ""))
        except StoppedWaiting as stopped:
            print(stopped, file=sys.stderr, flush=True)
            leave(EXIT_PREEMPTED)
        except NotMet as error:
            if error.said:
                leave(EXIT_USER)
            raise
    total = torch.ones(1)
    dist.all_reduce(total)
    print(f"{ranks.launcher}: {int(total)} have met", flush=True)


if __name__ == "__main__":
    run_rank(main)
