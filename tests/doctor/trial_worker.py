"""One training of the doctor's trials, calm and cut off, in bf16. Argument: the folder for ``found.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.doctor.gpu_trial import Bench, Size, Training, engine_settings
from xtrain.training.agreement import Agreement
from xtrain.training.engine import initialize_ranks


def main() -> None:
    folder = Path(sys.argv[1])
    device = initialize_ranks(from_environment(), training=True)
    size = Size.on(device)
    bench = Bench(device, size, size.shard(folder / "data"), folder, Agreement())
    calm = Training(bench, "calm", 20, engine_settings("bf16")).run()
    Training(bench, "torn", 20, engine_settings("bf16"), last=10).run()
    torn = Training(bench, "torn", 20, engine_settings("bf16")).run()
    (folder / "found.json").write_text(
        json.dumps({"calm": calm.losses, "torn": torn.losses, "resumes": torn.count("resume")})
    )


if __name__ == "__main__":
    run_rank(main)
