"""Where ranks meet: one store, one process group, made here alone."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from xtrain.dispatch.rank_process import check_is_rank
from xtrain.dispatch.rendezvous import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def join(ranks: Ranks, backend: str = "gloo", timeout: timedelta | None = None) -> None:
    """Meet the other ranks and form the default process group; only inside of :func:`run_rank`."""
    check_is_rank()
    import torch.distributed as dist

    store = _store(ranks)
    dist.init_process_group(  # noqa: TID251 - the one place
        backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout
    )


def _store(ranks: Ranks) -> Store:
    from torch._C._distributed_c10d import HashStore, TCPStore

    if ranks.world_size == 1:
        return HashStore()
    own = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and ranks.launcher == "torchrun"
    return TCPStore(
        ranks.master_address,
        ranks.master_port,
        ranks.world_size,
        ranks.is_first and not own,
        master_listen_fd=ranks.store,
        wait_for_workers=False,
    )
