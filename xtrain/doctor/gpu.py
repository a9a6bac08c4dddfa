"""python -m xtrain doctor --gpu: the product's own code tried on a GPU for some minutes, and what came of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtrain.dispatch.local import python, run_ranks
from xtrain.doctor.findings import Finding, Section, Table, note, ok, problem, warning
from xtrain.doctor.gpu_trial import ATTENTION, DROPOUT, FP16, NUM_STEPS, RANKS, RESULTS, STEPS
from xtrain.files import read_json

Result = Mapping[str, Any]

ALIKE = 0.99  # cosine of two ways to compute the same in bf16
WAITS_A_STEP = 4  # two of the update, and the line of metrics that each step of the trial writes
CLOSE = 0.02  # of losses that differ in their rounding alone, in 16 bits
TELL = "run it once more; if it stays, open an issue with this page: it is ours to mend"


def try_gpus() -> Iterator[Section]:
    """The trials on one GPU, then on two where there are; a section each. Takes minutes, and a GPU to itself."""
    one = _run(1, (ATTENTION, DROPOUT, STEPS, FP16))
    found = one.get("trials", {})
    looked = [_judged(name, found.get(name), judge) for name, judge in JUDGES.items()]
    tables = _tables(found.get(STEPS) or {})
    yield Section(f"trials on {one.get('device', 'one GPU')}", looked, tables, details=dict(one))
    import torch

    if torch.cuda.device_count() < 2:
        there = "one GPU is visible" if torch.cuda.device_count() else "there is no GPU here"
        yield Section("trials on two GPUs", [note(RANKS, f"not tried: {there}")])
        return
    two = _run(2, (RANKS,))
    single = (found.get(STEPS) or {}).get("losses", [])
    finding = _judged(RANKS, two.get("trials", {}).get(RANKS), lambda result: _together(result, single))
    yield Section("trials on two GPUs", [finding], details=dict(two))


def _run(ranks: int, trials: Sequence[str]) -> dict[str, Any]:
    """What the ranks left, with why they ended where that was not as it should be."""
    with tempfile.TemporaryDirectory(prefix="xtrain-doctor-") as name:
        folder = Path(name)
        outcome = run_ranks(python("-m", "xtrain.doctor.gpu_trial", name, *trials), ranks, folder)
        results: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            results = read_json(folder / RESULTS)
        if outcome is not None:
            results["ended"] = str(outcome)
        return results


def _judged(name: str, result: Result | None, judge: Callable[[Result], Finding]) -> Finding:
    """What is to be said of a trial that may not have been made, or not have ended."""
    if result is None:
        return problem(name, "not reached: the process ended before it", TELL)
    if "trouble" in result:
        return problem(name, str(result["trouble"]), TELL)
    return note(name, f"not tried: {result['not']}") if set(result) == {"not"} else judge(result)


def _attention(result: Result) -> Finding:
    least = min(result["cosine"], result["gradient"])
    found = f"as padded rows: least cosine {result['cosine']:.4f} of a token, {result['gradient']:.4f} of a gradient"
    return ok(ATTENTION, found) if least >= ALIKE else problem(ATTENTION, f"not {found}", TELL)


def _dropout(result: Result) -> Finding:
    apart = max(result["again"], result["without_gradients"])
    if apart > 0:
        return problem(DROPOUT, f"the same seed gave other masks: numbers up to {apart:.2g} apart", TELL)
    if not result["other_seed"] > 0:
        return problem(DROPOUT, "another seed gave the same masks", TELL)
    return ok(DROPOUT, "the same seed gives the same masks, with gradients and without")


def _steps(result: Result) -> Finding:
    losses, waits = result["losses"], sum(result["waits"].values())
    if len(losses) != NUM_STEPS or not result["saves"]:
        found = f"{len(losses)} of {NUM_STEPS} steps, {result['saves']} saves"
        return problem(STEPS, found, TELL)
    trained = f"loss {losses[0]:.3f} to {losses[-1]:.3f}, with a save"
    if "not" in result:
        return note(STEPS, f"{trained}; {result['not']}")
    counted = f"{trained}; {waits / NUM_STEPS:.1f} waits for the GPU a step"
    if waits > WAITS_A_STEP * NUM_STEPS:
        return warning(STEPS, f"{counted}, at most {WAITS_A_STEP} are expected", TELL)
    return ok(STEPS, counted)


def _fp16(result: Result) -> Finding:
    skipped, loss, apart = result["skipped"], result["losses"][-1], result["apart"]
    found = f"{skipped} steps skipped from 2^30, then loss {loss:.3f}; resumed, {apart:.2g} from the loss without"
    right = skipped > 0 and result["resumes"] == 1 and apart < CLOSE
    return ok(FP16, found) if right else problem(FP16, found, TELL)


def _together(result: Result, single: Sequence[float]) -> Finding:
    if not single:
        return note(RANKS, "trained; there is nothing to compare the losses with")
    apart = max(abs(one - other) for one, other in zip(result["losses"], single, strict=True))
    found = f"losses of {NUM_STEPS} steps up to {apart:.2g} from those of one GPU"
    return ok(RANKS, found) if apart < CLOSE else problem(RANKS, found, TELL)


JUDGES: dict[str, Callable[[Result], Finding]] = {
    ATTENTION: _attention,
    DROPOUT: _dropout,
    STEPS: _steps,
    FP16: _fp16,
}


def _tables(steps: Result) -> list[Table]:
    waits = steps.get("waits") or {}
    if not waits:
        return []
    rows = tuple((place, str(number)) for place, number in waits.items())
    return [Table(f"what waited for the GPU in {NUM_STEPS} steps", ("place", "times"), rows)]
