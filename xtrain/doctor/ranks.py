"""One rank of the all-reduce that the doctor times: python -m xtrain.doctor.ranks, one process a rank, by srun."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xtrain.dispatch.interfaces import interfaces
from xtrain.dispatch.joining import join
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import Ranks, from_environment
from xtrain.doctor.framing import emit
from xtrain.starting import prepare

GLOO_BYTES = (2**16, 2**20, 2**24)
NCCL_BYTES = (2**20, 2**24, 2**28, 2**30)
_WARM_UP, _LEAST_ROUNDS, _MOST_ROUNDS, _SECONDS = 2, 3, 20, 1.0


@dataclass(frozen=True)
class Timing:
    """All-reduces of one size."""

    num_bytes: int
    seconds: float
    """Of one, the slowest rank's, averaged over rounds."""
    ranks: int

    @property
    def algorithm_gbs(self) -> float:
        """Algorithmic bandwidth in GB/s as nccl-tests define it: size / time."""
        return self.num_bytes / self.seconds / 1e9

    @property
    def bus_gbs(self) -> float:
        """Bus bandwidth in GB/s as nccl-tests define it for all-reduce: algorithmic x 2 (n - 1) / n.

        Comparable with what the hardware is said to do, whatever the number of ranks n.
        """
        return self.algorithm_gbs * 2 * (self.ranks - 1) / self.ranks


def main(arguments: Sequence[str]) -> None:
    """Say who this rank is, form the process group, and time all-reduces; rank 0 emits the timings."""
    parser = argparse.ArgumentParser(prog="python -m xtrain.doctor.ranks", description=__doc__)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for forming the process group")
    parser.add_argument("--interface", default="", help="network interfaces, with commas between")
    options = parser.parse_args(arguments)
    ranks = from_environment()
    name = f"rank{ranks.rank}"
    place = {
        "rank": ranks.rank,
        "local_rank": ranks.local_rank,
        "node": os.environ.get("SLURMD_NODENAME") or platform.node(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "interfaces": interfaces(),
    }
    try:
        _all_reduce(ranks, name, place, options.timeout)
    except Exception as error:  # whatever torch says is the finding
        text = re.sub(r"\[enforce fail at [^]]*\] ", "", str(error))  # where in Gloo's source
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        emit(name, {"trouble": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:400]})


def _all_reduce(ranks: Ranks, name: str, place: dict[str, Any], timeout: float) -> None:
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    what = f"cuda:{device.index} {torch.cuda.get_device_name(device)}" if cuda else "cpu"
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) if cuda else ""
    emit(name, {"place": {**place, "device": what, "uuid": uuid, "backend": "nccl" if cuda else "gloo"}})
    if cuda:
        torch.cuda.set_device(device)
    ranks.export()
    join(ranks, "nccl" if cuda else "gloo", patience=timeout)
    dist.all_reduce(torch.ones(1, device=device))  # NCCL connects only now
    emit(name, {"at": "joined"})
    sizes: tuple[int, ...] = NCCL_BYTES if cuda else GLOO_BYTES
    if cuda:
        free, _ = torch.cuda.mem_get_info(device)
        sizes = tuple(size for size in sizes if size < free // 4) or sizes[:1]
    timings = [_time(size, device, ranks.world_size) for size in sizes]
    total = torch.full((1,), float(ranks.rank), device=device)
    dist.all_reduce(total)
    right = total.item() == ranks.world_size * (ranks.world_size - 1) / 2
    if ranks.is_first:
        emit(name, {"timings": [[t.num_bytes, t.seconds, t.ranks] for t in timings], "right": right})
    dist.barrier()


def _time(num_bytes: int, device: Any, num_ranks: int) -> Timing:
    import torch
    import torch.distributed as dist

    values = torch.zeros(num_bytes // 4, device=device)

    def rounds(number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            dist.all_reduce(values)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        slowest = torch.tensor([(time.perf_counter() - began) / number], device=device, dtype=torch.float64)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return float(slowest.item())

    one = rounds(_WARM_UP)  # the same on all ranks, and so is the number of rounds
    number = int(min(_MOST_ROUNDS, max(_LEAST_ROUNDS, _SECONDS / max(one, 1e-9))))
    return Timing(num_bytes, rounds(number), num_ranks)


if __name__ == "__main__":
    prepare()
    run_rank(lambda: main(sys.argv[1:]))  # not through the others' end, which may never come
