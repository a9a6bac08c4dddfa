"""On each rank of test_preemption.py: what the ranks agree on, printed as JSON by each into its own file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from xtrain.dispatch.joining import join
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.evaluation.predict import GroupRanks
from xtrain.training.agreement import Agreement
from xtrain.training.sums import of_all_ranks, take_back


def taken_back(saved: list[list[float]]) -> list[float]:
    """What this rank's sums are after a resume."""
    sums = torch.tensor([-1.0], dtype=torch.float64)
    take_back(sums, saved)
    again = of_all_ranks(sums)
    assert again[dist.get_rank()] == sums.tolist()
    return again[dist.get_rank()]


def main() -> None:
    out = Path(sys.argv[1])
    join(from_environment())
    rank = dist.get_rank()
    found = {}
    for name, agreement in (("default", Agreement()), ("separate", Agreement(separate=True))):
        agreement.barrier()
        found[name] = {
            "worst": agreement.worst([rank, -rank, 2**40 + rank, 7]),
            "least": agreement.least([rank, -rank]),
            "gather": agreement.gather({"rank": rank, "text": "é"}),
        }
    ranks = GroupRanks.of()
    found["of_an_evaluation"] = [ranks.world_size, ranks.gather({"from": ranks.rank})]
    sums = {"of one rank": [[1.5]], "of two": [[1.5], [2.0]], "of three": [[1.5], [2.0], [4.0]]}
    found["sums"] = {name: agreement.gather(taken_back(saved)) for name, saved in sums.items()}
    found["nothing"] = of_all_ranks(torch.empty(0, 3))
    found["same_group"] = Agreement()._group is None
    (out / f"agreed-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run_rank(main)
