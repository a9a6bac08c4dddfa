"""What a study will take of the disk: phase by phase, in all, and at the most, before any of it is run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.data.prepare import Wanted
from xtrain.disk_space import Space, bytes_below, space
from xtrain.errors import UserError
from xtrain.graph import EVALUATE, TARGET, Graph, Phase, Reading
from xtrain.phase import PhaseFile
from xtrain.phase.disk import Model, Needs, of_evaluation, of_phase, of_training
from xtrain.phase.keeping import ALL, NONE
from xtrain.study_data import PREPARED, by_tokenizer
from xtrain.tasks.checking import DataSet
from xtrain.training.budget import size_in_words

_SHARD = 1.5  # bytes of a shard for each byte of text, roughly: a token of four bytes is three to four bytes of text


@dataclass(frozen=True)
class DiskPlan:
    """Bytes on the disk; what is there already is a part of them."""

    needs: Mapping[str, Needs]
    """Of each phase, by its hash."""
    there: int
    """What lies there already of all this."""
    shards: int
    encoders: int
    predictions: int
    peak: int
    """The most at a time, phase after phase."""
    left: Space | None

    @property
    def stays(self) -> int:
        """What the study leaves."""
        return self.shards + self.encoders + self.predictions

    def of(self, phase: str) -> str:
        """Of one phase: what stays, and the most while it trains."""
        one = self.needs[phase]
        at_most = f", at most {size_in_words(one.peak)}" if one.peak > one.stays else ""
        return size_in_words(one.stays) + at_most

    def lines(self, keep: str) -> Iterator[str]:
        """For people; ``keep`` is ``engine.keep_encoders``."""
        yield (
            f"disk: {size_in_words(self.stays)} stay: encoders {size_in_words(self.encoders)} "
            f'(engine.keep_encoders = "{keep}"), shards about {size_in_words(self.shards)}, predictions about '
            f"{size_in_words(self.predictions)}; with a phase's checkpoints {size_in_words(self.peak)} at most"
        )
        if self.left is not None:
            more = max(0, self.peak - self.there)
            files = "" if self.left.files is None else f" and {self.left.files:,} more files"
            free = f"{size_in_words(self.left.free)} free{files}"
            yield f"      {size_in_words(more)} more than now; {self.left.by} has {free}"
            if more > self.left.free:
                other = 'set engine.keep_encoders = "none", ' if keep != NONE else ""
                yield f"      warning: that is more than is free: {other}lower engine.keep_checkpoints, or change --out"


def disk_plan(graph: Graph, out: Path, data_root: Path | None) -> DiskPlan:
    """The reckoning of a study, exact where data is prepared and else an upper bound."""
    models = {base: Model.of(folder) for base, folder in graph.bases.items()}
    keep = graph.study.engine.keep_encoders
    phases = list(graph.phases.values())
    needs = {phase.hash: _needs(phase, graph, models[phase.base], out, data_root) for phase in phases}
    there = bytes_below(out / PREPARED, *(phase.run_directory(out).path for phase in phases))
    shards = bytes_below(out / PREPARED) + int(_SHARD * _unprepared(graph, out, data_root))
    children = {phase.hash: {other.hash for other in phases if other.parent == phase.hash} for phase in phases}
    kept = {phase.hash: needs[phase.hash].stays for phase in phases}
    now = peak = shards
    over: set[str] = set()
    for phase in phases:
        peak = max(peak, now + needs[phase.hash].peak)
        now += kept[phase.hash]
        over.add(phase.hash)
        for parent in (graph.phases[key] for key in ([phase.parent] if phase.parent else [])):
            if parent.kind == TARGET and keep != ALL and children[parent.hash] <= over:
                fewer = 0 if keep == NONE else kept[parent.hash] // 2
                now -= kept[parent.hash] - fewer
                kept[parent.hash] = fewer
    predictions = sum(kept[phase.hash] for phase in phases if phase.kind == EVALUATE)
    return DiskPlan(needs, there, shards, sum(kept.values()) - predictions, predictions, max(peak, now), space(out))


def _needs(phase: Phase, graph: Graph, model: Model, out: Path, data_root: Path | None) -> Needs:
    run = phase.run_directory(out)
    if run.done:
        stays = bytes_below(run.encoder, run.encoder_last, run.predictions)
        return Needs(stays, stays, stays)
    try:
        return of_phase(run, PhaseFile.read(run))
    except (UserError, OSError):  # its data are not prepared yet
        pass
    if phase.kind != EVALUATE:
        return of_training(model, graph.study.engine, None, phase.recipe.max_steps)
    size = sum(_data_set(graph, reading).num_bytes(data_root) for reading in phase.readings)
    return of_evaluation(size // 4, size // 200)


def _unprepared(graph: Graph, out: Path, data_root: Path | None) -> int:
    """Bytes of the files whose shards are still to be made."""
    found = 0
    for folder, readings in by_tokenizer(graph.bases, graph.phases.values()).items():
        for reading in readings:
            one = Wanted(_data_set(graph, reading), reading.max_length, reading.sample)
            with contextlib.suppress(UserError):  # data that is missing is said elsewhere
                found += 0 if one.is_there(folder, data_root, out / PREPARED) else one.data.num_bytes(data_root)
    return found


def _data_set(graph: Graph, reading: Reading) -> DataSet:
    return DataSet(graph.specs[reading.member], reading.split, reading.language)
