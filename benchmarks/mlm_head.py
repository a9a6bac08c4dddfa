"""The MLM head's softmax over 250,002 pieces: peak memory and time, in chunks against plain logits, in one run.

Run: python benchmarks/mlm_head.py [--threads 2] [--hidden 384] [--out benchmarks/results/mlm_head.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xtrain.model.linear_cross_entropy import linear_cross_entropy
from xtrain.model.memory import keep_freed_memory
from xtrain.tasks.formats import IGNORED

VOCAB = 250_002
TOKENS, MASKED = 2048, 307  # 15 %
FULL, PLAIN, OURS = "all logits", "logits at masked tokens", "ours"
CASES = (FULL, PLAIN, OURS)
DIFFERENCE = "largest difference of a gradient to that of all logits, in parts of its largest element"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=384, help="of the memory's cases; the logits do not hang on it")
    parser.add_argument("--timed-hidden", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mlm_head.json")
    parser.add_argument("--case", choices=CASES, help="measure this one's memory, in this process")
    parser.add_argument("--frozen", action="store_true", help="without a gradient of the table")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the case leaves what it found")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(measured(options.case, options.hidden, options.frozen, options.folder)))
        return
    result: dict[str, Any] = {
        "machine": machine(options.threads),
        "vocabulary": VOCAB, "tokens": TOKENS, "masked": MASKED, "hidden": options.hidden,
        "memory": memory(options.hidden, options.threads),
        f"seconds, hidden {options.timed_hidden}, {MASKED} masked, forward and backward, least of the repeats": {
            name: timed(options.timed_hidden, dtype, options.repeats)
            for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        },
    }  # fmt: skip
    print_tables(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    load = round(os.getloadavg()[0], 1)
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "load_average": load, "torch": torch.__version__}


def inputs(hidden: int, dtype: torch.dtype, frozen: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows (T, H) of all tokens, table, bias and labels (T,), ``IGNORED`` where a token is not masked."""
    torch.manual_seed(0)
    table = torch.randn(VOCAB, hidden, dtype=dtype).mul_(0.02).requires_grad_(not frozen)
    bias = torch.zeros(VOCAB, dtype=dtype, requires_grad=True)
    rows = torch.randn(TOKENS, hidden, dtype=dtype, requires_grad=True)
    labels = torch.full((TOKENS,), IGNORED)
    labels[torch.randperm(TOKENS)[:MASKED]] = torch.randint(VOCAB, (MASKED,))
    return rows, table, bias, labels


def step(case: str, rows: Tensor, table: Tensor, bias: Tensor, labels: Tensor) -> float:
    """The mean loss of the masked tokens, forward and backward."""
    if case == FULL:
        # no name for the logits: nothing holds them longer than cross_entropy does
        loss = F.cross_entropy(F.linear(rows, table, bias).float(), labels, ignore_index=IGNORED)
    else:
        places = (labels != IGNORED).nonzero().squeeze(1)
        if case == PLAIN:
            loss = F.cross_entropy(F.linear(rows[places], table, bias).float(), labels[places])
        else:
            loss = linear_cross_entropy(rows[places], table, bias, labels[places])[0].mean()
    loss.backward()
    return loss.item()


def measured(case: str, hidden: int, frozen: bool, folder: Path) -> dict[str, float]:
    """The process's peak memory in a step beyond its inputs, in MiB; loss and gradients go into ``folder``."""
    # what oneDNN and the thread pool allocate once is no part of it
    step(case, *(value.detach().requires_grad_() for value in small()), torch.arange(4))
    rows, table, bias, labels = inputs(hidden, torch.float32, frozen)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = step(case, rows, table, bias, labels)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    gradients = {"rows": rows.grad, "bias": bias.grad}
    if table.grad is not None:
        gradients["table"] = table.grad[::97].clone()
    torch.save(gradients, folder / f"{case}.pt")
    return {"peak_mib": round(peak, 1), "loss": loss}


def small() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(4, 16), torch.randn(8, 16), torch.randn(8)


def memory(hidden: int, threads: int) -> dict[str, Any]:
    """Each case in a process of its own, with the table frozen and with its gradient."""
    found: dict[str, Any] = {case: {} for case in CASES}
    found["gradient_of_the_table_mib"] = round(VOCAB * hidden * 4 / 2**20, 1)
    with tempfile.TemporaryDirectory() as folder:
        for title, extra in (("table frozen", ["--frozen"]), ("with the table's gradient", [])):
            for case in CASES:
                arguments = ["--case", case, "--hidden", str(hidden), "--threads", str(threads), "--folder", folder]
                command = [sys.executable, __file__, *arguments, *extra]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[case][title] = json.loads(output.splitlines()[-1])
        gradients = {case: torch.load(Path(folder) / f"{case}.pt") for case in CASES}
    for case in (PLAIN, OURS):
        differences = {
            name: float((value - gradients[case][name]).abs().max() / value.abs().max())
            for name, value in gradients[FULL].items()
        }
        found[case][DIFFERENCE] = differences
    for title in ("table frozen", "with the table's gradient"):
        ratio = found[OURS][title]["peak_mib"] / found[FULL][title]["peak_mib"]
        found[OURS][title]["share of all logits"] = round(ratio, 4)
    return found


def timed(hidden: int, dtype: torch.dtype, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of a step, by the clock and of the processor; the two take turns, so that other load meets both."""
    keep_freed_memory()  # as train.py does; it helps both
    leaves = inputs(hidden, dtype)
    best = {case: {"clock": float("inf"), "processor": float("inf")} for case in (PLAIN, OURS)}
    for case in [PLAIN, OURS] * repeats:
        for leaf in leaves:
            leaf.grad = None
        clock, processor = time.perf_counter(), time.process_time()
        step(case, *leaves)
        taken = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
        best[case] = {name: round(min(value, best[case][name]), 2) for name, value in taken.items()}
    return best


def print_tables(result: dict[str, Any]) -> None:
    found = result["memory"]
    print(f"{VOCAB:,} pieces, {TOKENS:,} tokens, {MASKED} masked, hidden {result['hidden']}, fp32")
    print(f"{'':26}{'peak, table frozen':>20}{'with its gradient':>20}{'loss':>12}")
    for case in CASES:
        frozen, whole = found[case]["table frozen"], found[case]["with the table's gradient"]
        print(f"{case:26}{frozen['peak_mib']:>16,.0f} MiB{whole['peak_mib']:>16,.0f} MiB{whole['loss']:>12.6f}")
    print(f"(the gradient of the table is {found['gradient_of_the_table_mib']:,.0f} MiB of it)")
    print(f"{DIFFERENCE}: {found[OURS][DIFFERENCE]}")
    title = next(key for key in result if key.startswith("seconds"))
    for name, values in result[title].items():
        print(f"{title}, {name}: " + ", ".join(f"{case} {value}" for case, value in values.items()))


if __name__ == "__main__":
    main()
