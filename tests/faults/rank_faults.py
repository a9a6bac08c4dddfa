"""Faults of ranks, not of saves: signals anywhere, hangs, errors, data workers, gradients that are not numbers."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from faults import BUILDERS, at_step, build_in
from torch import Tensor
from whole import whole_weights

from xtrain.errors import Problem, UserError
from xtrain.model import PhaseModel
from xtrain.phase import entry, evaluating, training
from xtrain.training.collapse import Collapse
from xtrain.training.engine import TrainEngine
from xtrain.training.health import Collapsed, Health
from xtrain.training.loop import Outcome, Trainer
from xtrain.training.saver import Job, Saver
from xtrain.training.watchdog import Watchdog

# Place -> whose method (or which function) it is in, its name, and whether the fault comes before or after it.
PLACES: dict[str, tuple[Any, str, bool]] = {
    "start-up": (entry, "initialize_ranks", True),  # the handlers are set, the ranks have not met
    "resume": (Trainer, "_resume", False),
    "step": (Trainer, "_global_step", True),
    "evaluation": (Trainer, "_between_batches", True),
    "start of an evaluation": (Trainer, "_select", True),
    "write": (Saver, "_write", True),  # in the thread that writes, where there is one
    "commit": (Saver, "_commit", True),
    "last save": (Trainer, "_end", True),
    "export": (training, "_export", True),
    "evaluation phase": (evaluating._Counted, "__call__", True),
    "leaving": (Watchdog, "stop", True),  # all is saved: the rank takes leave of the others
}


def at(place: str, action: Callable[[], None], time_of_it: int = 0, step: int | None = None) -> None:
    """Do ``action`` once, at the given place.

    ``time_of_it`` counts from 0 the times that the place is reached, and ``step`` leaves out all but the steps and
    saves of this number.
    """
    owner, name, before = PLACES[place]
    whole = getattr(owner, name)
    reached = [0]

    def counts(arguments: Sequence[Any]) -> bool:
        numbers = [value.step if isinstance(value, Job) else value for value in arguments]
        return step is None or step in [number for number in numbers if isinstance(number, int)]

    @functools.wraps(whole)
    def acted(*arguments: Any, **named: Any) -> Any:
        now = False
        if counts(arguments):
            now, reached[0] = reached[0] == time_of_it, reached[0] + 1
        if now and before:
            action()
        result = whole(*arguments, **named)
        if now and not before:
            action()
        return result

    setattr(owner, name, acted)


def send(names: Sequence[str]) -> None:
    """Signals to this process, one after the other."""
    for name in names:
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(0.001)  # two of a kind that wait are one


def signal_at(
    rank: int, place: str, who: Sequence[int], names: Sequence[str], time_of_it: int = 0, step: int | None = None
) -> None:
    """The ranks in ``who`` get the signals in ``names`` at a place of :data:`PLACES`."""
    if rank in who:
        at(place, functools.partial(send, names), time_of_it, step)


def several(rank: int, faults: Sequence[Mapping[str, Any]]) -> None:
    """More than one fault."""
    for fault in faults:
        build_in(rank=rank, **fault)


def raise_at_step(rank: int, step: int, who: int, error: str) -> None:
    """One rank raises at the beginning of a step: ``error`` is "user" for a mistake of the user's, or a message."""

    def fail() -> None:
        if rank == who and error == "user":
            raise UserError(Problem("the data", "are wrong on one rank", remedy="mend them"))
        if rank == who:
            raise RuntimeError(error)

    at_step(rank, step, fail)


def hang_soon(rank: int, step: int, who: int, seconds: float) -> None:
    """One rank sleeps for ever at a step; from that step on the stall limit is ``seconds`` on all ranks."""

    def shorten() -> None:
        for watchdog in watchdogs:
            watchdog._stall_seconds = seconds

    watchdogs = caught(Watchdog, "start")
    at_step(rank, step, lambda: sleep_for_ever() if rank == who else None)
    at_step(rank, step, shorten)


def sleep_for_ever() -> None:
    """The line that a dump of the stacks must name."""
    while True:
        time.sleep(60)


def stop_at_step(rank: int, step: int, who: int, seconds: float) -> None:
    """SIGSTOP to one rank at a step; ``seconds`` of silence end the run."""
    whole = Watchdog.__init__

    def made(self: Watchdog, *arguments: Any, **named: Any) -> None:
        whole(self, *arguments, **{**named, "silent_seconds": seconds})

    Watchdog.__init__ = made  # type: ignore[method-assign]
    at_step(rank, step, lambda: os.kill(os.getpid(), signal.SIGSTOP) if rank == who else None)


def caught(owner: type, name: str) -> list[Any]:
    """The objects whose method ``name`` has been called, filled in as that happens."""
    objects: list[Any] = []
    whole = getattr(owner, name)

    @functools.wraps(whole)
    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        objects.append(self)
        return whole(self, *arguments, **named)

    setattr(owner, name, called)
    return objects


def signal_worker(rank: int, step: int, who: Sequence[int], names: Sequence[str]) -> None:
    """Signals to a rank's data workers at the beginning of a step."""
    trainers = caught(Trainer, "run")

    def strike() -> None:
        if rank in who:
            assert trainers[0].feeder.pids
            for pid in trainers[0].feeder.pids:
                for name in names:
                    os.kill(pid, signal.Signals[name])
            time.sleep(0.2)  # for the signals to arrive

    at_step(rank, step, strike)


def not_finite(rank: int, steps: Mapping[str, Sequence[Any]], digest: str = "") -> None:
    """At step N of ``{"N": [what, who]}`` a loss or gradient of rank ``who`` is not a number.

    ``what`` is "loss" (and so all that comes of it), "gradient" (the loss is finite), or "element": the gradient of
    the head's last bias alone, which one rank's share of the optimizer has. At the end of training each rank writes
    ``DIGEST-RANK.json``: hashes of the fp32 weights and of its own rounded copy.
    """
    now = [0]
    head: list[Any] = []
    whole_step, forward, end = Trainer._global_step, PhaseModel.forward, Trainer._end

    def struck(what: str) -> bool:
        return steps.get(str(now[0])) == [what, rank]

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * float("nan") if struck("element") else gradient

    def stepped(self: Trainer, step: int, learning_rate: float) -> Any:
        now[0] = step
        if not head:
            last = [p for name, p in self.engine.model.named_parameters() if name.endswith("out_proj.bias")]
            head.extend(last)
            last[-1].register_hook(spoil)  # type: ignore[no-untyped-call]
        return whole_step(self, step, learning_rate)

    def forwarded(self: PhaseModel, *arguments: Any, **named: Any) -> Any:
        loss, *rest = forward(self, *arguments, **named)
        if struck("loss"):
            loss = loss * float("nan")
        if struck("gradient") and loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[no-untyped-call]
        return (loss, *rest)

    def ended(self: Trainer, step: int) -> Outcome:
        if digest:
            with open(f"{digest}-{rank}.json", "w", encoding="utf-8") as file:
                json.dump(digests(self), file)
        return end(self, step)

    Trainer._global_step = stepped  # type: ignore[method-assign]
    Trainer._end = ended  # type: ignore[method-assign]
    PhaseModel.forward = forwarded  # type: ignore[method-assign]


def digests(trainer: Trainer) -> dict[str, Any]:
    """What this rank has in the end: of the fp32 weights, of those it computes with, and whether all are finite."""
    fp32 = whole_weights(trainer.engine)
    model = trainer.engine.model
    with trainer.engine.whole(model):
        rounded = {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}
    return {
        "fp32": hashed(fp32),
        "rounded": hashed(rounded),
        "finite": all(bool(torch.isfinite(value).all()) for value in (*fp32.values(), *rounded.values())),
    }


def hashed(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all of them, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def hang_in_leave(rank: int) -> None:
    """Taking down a process group never ends, as NCCL's may not where a peer is gone."""
    torch.distributed.destroy_process_group = lambda *_: sleep_for_ever()


def collapse(rank: int, step: int, seed: int) -> None:
    """The training from ``seed`` is found to have collapsed after ``step`` steps; none is there beside another."""
    run, check, made = Trainer.run, Health.check, TrainEngine.__init__
    seeds: list[int] = []
    before: list[tuple[weakref.ref[TrainEngine], weakref.ref[Any]]] = []

    def make(self: TrainEngine, *arguments: Any) -> None:
        for engine, model in before:
            assert engine() is None, "two engines"
            left = (
                [] if model() is None else [tensor for p in model().parameters() for tensor in (p, *vars(p).values())]
            )
            assert not sum(one.numel() for one in left if isinstance(one, Tensor)), "the weights of two"
        made(self, *arguments)
        before.append((weakref.ref(self), weakref.ref(self.model)))

    def noted(self: Trainer) -> Outcome:
        seeds[:] = [self.seed]
        return run(self)

    def checked(self: Health, done: int) -> Collapse | None:
        if (seeds, done) == ([seed], step):
            raise Collapsed(Collapse(step, step, {"toy": "made up"}))
        return check(self, done)

    Trainer.run, Health.check = noted, checked  # type: ignore[method-assign]
    TrainEngine.__init__ = make  # type: ignore[method-assign]


BUILDERS |= {
    "collapse": collapse,
    "hang in leave": hang_in_leave,
    "several": several,
    "signal at": signal_at,
    "raise at step": raise_at_step,
    "hang soon": hang_soon,
    "stop at step": stop_at_step,
    "signal worker": signal_worker,
    "not finite": not_finite,
}
