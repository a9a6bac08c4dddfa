"""Saving and resuming a model of XLM-R Large's size: bytes, seconds, stall, memory, with one rank and with two.

    python benchmarks/checkpoint_large.py [--size large] [--ranks 1 2] [--steps 18] [--every 6] [--out FOLDER]

A model of random weights (24 layers, 1024 hidden, 250,002 words, the whole vocabulary trained) is trained in bf16 and
ZeRO-2 on random tokens. After every 6 steps the same state is saved twice at the same boundary: by a saver for which
training waits, and by the one that writes beside the next steps. Then the job is started again from the last
checkpoint, which is first put out of the page cache, and its losses are compared with those of the run that went on;
``xtrain checkpoint verify`` and the export run in processes of their own. Needs 24 GB of memory and 30 GB of disk.
Writes ``benchmarks/results/checkpoint_large.json`` with the machine's description (``--size large`` alone).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from xtrain.checkpoints import CheckpointFolder, commit_name, damage  # noqa: E402
from xtrain.dispatch.local import python, run_ranks  # noqa: E402
from xtrain.files import write_json  # noqa: E402
from xtrain.run_directory import RunDirectory  # noqa: E402
from xtrain.training.budget import available_memory  # noqa: E402

SIZES = {  # layers, hidden, heads, intermediate, vocabulary
    "tiny": (2, 32, 4, 64, 1000),
    "base": (12, 768, 12, 3072, 250_002),
    "large": (24, 1024, 16, 4096, 250_002),
}
EXAMPLE, BATCH, MICRO_BATCH = 128, 4, 128  # tokens of an example, examples of a step, tokens of a micro-batch
GIB = 2**30
T = TypeVar("T")


def make_run(out: Path, size: str, steps: int, every: int) -> RunDirectory:
    """The run directory of a phase that starts from a configuration without weights, and trains on random tokens."""
    from xtrain.data.shards import write_shard
    from xtrain.phase.file import PhaseFile, ShardEntry
    from xtrain.study import Engine, Recipe
    from xtrain.tasks import TaskSpec

    layers, hidden, heads, intermediate, vocabulary = SIZES[size]
    base = out / "base"
    base.mkdir()
    write_json(base / "config.json", {
        "model_type": "xlm-roberta", "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": intermediate, "max_position_embeddings": 514,
        "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    })  # fmt: skip
    rng, count = np.random.default_rng(0), steps * BATCH
    tokens = rng.integers(4, vocabulary, count * EXAMPLE, dtype=np.uint32)
    labels, ids = rng.integers(3, size=count).tolist(), [str(n) for n in range(count)]
    kept = {"task": "random", "format": "classification", "language": "en", "split": "train",
            "fields": {"label": "example"}}  # fmt: skip
    write_shard(out / "shards/random", [tokens], [EXAMPLE] * count, [1] * count, {"label": labels}, ids, kept)
    recipe = Recipe(max_steps=steps, batch_size=BATCH, eval_examples=0, on_collapse="continue", collapse_window=1000)
    engine = Engine(
        "zero2", precision="bf16", checkpoint_every=every, log_every=1, used_vocabulary=False,
        tokens_per_micro_batch=MICRO_BATCH,
    )  # fmt: skip
    phase = PhaseFile(
        kind="target", name="random", hash="0123456789ab", study="checkpoint_large", seed=0, base=str(base),
        base_folder=str(base), tasks=("random",), levels_up=2, recipe=recipe, engine=engine,
        shards=(ShardEntry("random", "random", "train", "en", "shards/random"),),
        task={"random": TaskSpec("random", "classification", ("en",), labels=("a", "b", "c"))},
    )  # fmt: skip
    run = RunDirectory(out / "target/random-0123456789ab").create()
    phase.write(run)
    return run


def memory_needed(size: str, ranks: int) -> int:
    """Bytes that the ranks take together when a save is under way.

    Of each parameter a rank has the weight in bf16 (2 bytes), and for its share of them the fp32 weight, two moments
    and a copy of these three (24), the gradient (2) and, in the update, that again flat (2) and in fp32 (4); and half
    a GiB for itself.
    """
    layers, hidden, _, intermediate, vocabulary = SIZES[size]
    block = 4 * hidden**2 + 2 * hidden * intermediate + 9 * hidden + intermediate
    parameters = (vocabulary + 516) * hidden + layers * block
    return ranks * (2 * parameters + GIB // 2) + 32 * parameters


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """``function`` in a process of its own: this one shall not keep the memory that importing torch takes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def ranks_of(run: RunDirectory, mode: str, ranks: int, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run the ranks, and return what each has measured."""
    script = str(Path(__file__).with_name("checkpoint_large_rank.py"))
    outcome = run_ranks(python(script, str(run.path), json.dumps(settings), mode), ranks, run.logs)
    if outcome is not None:
        sys.exit(f"{mode} with {ranks} ranks: {outcome}")
    result: list[dict[str, Any]] = json.loads((run.path / f"result-{mode}.json").read_text())
    return result


def forget(folder: Path) -> None:
    """Put the files of a folder, all synced, out of the page cache: as after a reboot, or on another node."""
    for path in folder.iterdir():
        with open(path, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_process(command: Sequence[str]) -> tuple[float, str]:
    """Seconds of a command with this Python, and what it printed."""
    began = time.monotonic()
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - began, done.stdout


def of_saves(rank: Mapping[str, Any]) -> dict[str, Any]:
    """Stall and duration of each save in both ways, and how long steps took beside one and without."""
    seconds = {entry["step"]: entry["seconds"] for entry in rank["steps"]}
    saves = [event for event in rank["events"] if event["event"] == "save" and event["step"] < max(seconds)]
    beside = {event["step"]: event for event in saves if event["beside_training"]}
    alone = {event["step"]: event for event in saves if not event["beside_training"]}
    busy = {step: range(step + 1, event["after_steps"] + 1) for step, event in beside.items()}
    # the first step allocates, and beside some more the saver takes its memory
    early = {entry["step"] for entry in rank["steps"] if entry["step"] == 1 or entry["beside_taking_memory"]}
    quiet = [s for n, s in seconds.items() if n not in early and not any(n in steps for steps in busy.values())]
    usual = statistics.fmean(quiet)
    result = []
    for step, event in beside.items():
        waited, steps = alone[step]["seconds"], [seconds[n] for n in busy[step]]
        longer = sum(steps) - usual * len(steps)
        result.append({
            "step": step, "bytes": event["bytes"], "seconds_to_commit": event["seconds"],
            "stall_seconds": event["stall_seconds"], "synchronous_seconds": waited,
            "stall_of_synchronous": event["stall_seconds"] / waited,
            "seconds_a_step_beside_it": statistics.fmean(steps), "steps_beside_it": steps,
            "longer_in_all": longer, "longer_of_synchronous": longer / waited,
        })  # fmt: skip
    return {"seconds_a_step": usual, "first_steps": [seconds[n] for n in sorted(early)],
            "steps_without_save": quiet, "saves": result}  # fmt: skip


def of_memory(trained: Mapping[str, Any], resumed: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Bytes of one rank: before and beside a save, with the copy and (in the resumed run) without one."""
    without = max(entry["peak"] for entry in resumed["steps"])
    beside = max(entry["peak"] for entry in trained["steps"] if entry["step"] > every)
    extra = [event["extra"] for event in trained["events"] if event["event"] == "synchronous_memory"]
    return {
        "copy": trained["copy_bytes"],
        "resident_with_engine": trained["resident_with_engine"],
        "resident_before_first_save": next(e["resident"] for e in trained["steps"] if e["step"] == every),
        "peak_of_a_step_without_copy": without,
        "peak_of_a_step_beside_a_save": beside,
        "extra_of_a_save_beside_training": beside - without,
        "extra_of_a_synchronous_save": max(extra),
        "extra_of_verifying": resumed["costs"]["newest"]["peak_above"],
        "extra_of_loading": resumed["costs"]["fill"]["peak_above"],
    }


def measure(out: Path, size: str, steps: int, every: int, ranks: int) -> dict[str, Any]:
    """Train, verify, resume and export with so many ranks."""
    run = apart(make_run, out, size, steps, every)
    last = every * ((steps - 1) // every)
    trained = ranks_of(run, "train", ranks, {"synchronous": list(range(every, steps, every))})
    folder = CheckpointFolder(run.checkpoints)
    folder.delete(run.checkpoints / commit_name("step", steps))  # so that there is something to go on with
    checkpoint = run.checkpoints / commit_name("step", last)
    for other in folder.commits():
        if other.path != checkpoint:
            folder.delete(other.path)
    forget(checkpoint)
    verifying, said = in_process(["-m", "xtrain", "checkpoint", "verify", str(run.path)])
    print(said, flush=True)
    forget(checkpoint)
    resumed = ranks_of(run, "resume", ranks, {})
    folder.delete(run.checkpoints / commit_name("step", steps))
    forget(checkpoint)
    script = str(Path(__file__).with_name("export_memory.py"))
    _, said = in_process([script, str(run.path), str(checkpoint), str(out / "encoder")])
    assert not damage(checkpoint, deep=False)
    after = [str(step) for step in range(last + 1, steps + 1)]
    went_on, again = ({step: of[0]["losses"][step] for step in after} for of in (trained, resumed))
    first = trained[0]
    return {
        "ranks": ranks,
        **{key: first[key] for key in ("parameters", "tokens_a_step", "micro_batches_a_step", "threads", "optimizer")},
        "checkpoint_bytes": sum(path.stat().st_size for path in checkpoint.iterdir()),
        **of_saves(first),
        "same_bytes_both_ways": all(all(rank["same_bytes"]) for rank in trained[:1]),
        "by_default": first["by_default"],
        "engine_seconds": max(rank["costs"]["engine"]["seconds"] for rank in trained),
        "resume": {
            "verify_seconds": max(rank["costs"]["newest"]["seconds"] for rank in resumed),
            "load_seconds": max(rank["costs"]["fill"]["seconds"] for rank in resumed),
            "losses_and_norms": again,
            "equal_to_the_run_that_went_on": again == went_on,
        },
        "verify_command_seconds": verifying,
        "memory_of_each_rank": [of_memory(one, other, every) for one, other in zip(trained, resumed, strict=True)],
        "least_memory_available": min(rank["least_memory_available"] for rank in [*trained, *resumed]),
        "export": json.loads(said.splitlines()[-1]),
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on: the processor, and how fast fresh memory, the disk and SHA-256 are."""
    import hashlib

    import torch

    from xtrain.phase.entry import processor_name

    began = time.monotonic()
    fresh = np.ones(2**28, dtype=np.uint8)
    touched = time.monotonic()
    hashlib.sha256(fresh.data)
    hashed = time.monotonic()
    return {
        "processor": processor_name(), "cores": os.cpu_count(), "system": platform.platform(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "torch": torch.__version__,
        "load_average": os.getloadavg()[0], "seconds_a_gib_of_fresh_memory": 4 * (touched - began),
        "seconds_a_gib_to_hash": 4 * (hashed - touched),
    }  # fmt: skip


def show(result: Mapping[str, Any]) -> None:
    """The numbers as lines of text."""
    memory = result["memory_of_each_rank"][0]
    print(f"\n{result['ranks']} ranks, {result['parameters']:,} parameters, {result['tokens_a_step']} tokens a step")
    print(f"  checkpoint {result['checkpoint_bytes'] / 1e9:.2f} GB; a step without a save "
          f"{result['seconds_a_step']:.2f} s")  # fmt: skip
    for save in result["saves"]:
        print(f"  save of step {save['step']}: to commit {save['seconds_to_commit']:.1f} s; "
              f"stall {save['stall_seconds']:.2f} s of {save['synchronous_seconds']:.1f} s synchronous "
              f"({100 * save['stall_of_synchronous']:.1f} %); a step beside it {save['seconds_a_step_beside_it']:.2f} "
              f"s, in all {save['longer_in_all']:.1f} s longer")  # fmt: skip
    resume = result["resume"]
    print(f"  resume: verify {resume['verify_seconds']:.1f} s, load {resume['load_seconds']:.1f} s, losses equal: "
          f"{resume['equal_to_the_run_that_went_on']}; checkpoint verify {result['verify_command_seconds']:.1f} s; "
          f"same bytes both ways: {result['same_bytes_both_ways']}")  # fmt: skip
    for name, value in memory.items():
        print(f"  {name.replace('_', ' '):<34} {value / GIB:7.2f} GiB")
    print(f"  least memory available             {result['least_memory_available'] / GIB:7.2f} GiB")
    print(f"  export: {result['export']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="large")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--out", type=Path, help="a folder on a disk with 30 GB to spare; a temporary one by default")
    arguments = parser.parse_args()
    results = []
    for ranks in arguments.ranks:
        needed, free = memory_needed(arguments.size, ranks) / GIB, available_memory() / GIB
        if free < needed + 2.0:
            sys.exit(f"{ranks} ranks need {needed:.1f} GiB of memory, with 2 GiB in reserve, and {free:.1f} are free")
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-large-", dir=arguments.out))
        try:
            described = apart(machine)
            results.append(measure(folder, arguments.size, arguments.steps, arguments.every, ranks))
            results[-1]["machine"] = described
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        show(results[-1])
    if arguments.size != "large":
        return
    path = PROJECT / "benchmarks" / "results" / "checkpoint_large.json"
    known = json.loads(path.read_text("utf-8"))["results"] if path.is_file() else []
    kept = [result for result in known if result["ranks"] not in arguments.ranks]
    work = f"XLM-R Large's size, random weights, whole vocabulary, bf16, ZeRO-2, {EXAMPLE} tokens x {BATCH} a step"
    path.write_text(json.dumps({"work": work, "results": [*kept, *results]}, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
