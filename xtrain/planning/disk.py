"""What a study will take of the disk: phase by phase, in all, and at the most, before any of it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.disk_space import Space, bytes_below, space
from xtrain.errors import UserError
from xtrain.graph import EVALUATE, TARGET, Graph, Phase
from xtrain.phase import PhaseFile
from xtrain.phase.disk import Model, Needs, of_evaluation, of_phase, of_training, record_bytes, selects_last
from xtrain.phase.keeping import ALL, NONE
from xtrain.planning.cost import steps_of
from xtrain.planning.sizes import SHARD, Sizes
from xtrain.study import Base
from xtrain.study_data import PREPARED, by_tokenizer
from xtrain.training.budget import size_in_words

# Bytes of a shard: of a token (its number, and where a field has one for each), of an example (its offsets, id and
# hash), and of the shard itself. As measured on the demo, as the report is.
_TOKEN, _EXAMPLE, _SHARD = 4.1, 65, 6_500
_REPORT = 300_000


@dataclass(frozen=True)
class DiskPlan:
    """Bytes on the disk; what is there already is a part of them."""

    needs: Mapping[str, Needs]
    """Of each phase, by its hash."""
    there: int
    """What lies there already of all this."""
    shards: int
    encoders: int
    """With what training phases write beside them. At most: two of a phase whose last step may not be the selected."""
    fewer: int
    """How much less that may be: where the last step is the selected one of every phase."""
    predictions: int
    """With the record of the evaluations, and the report."""
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
        less = f"{size_in_words(self.stays - self.fewer)} to " if self.fewer else ""
        why = " (a second one where another step than the last is selected)" if self.fewer else ""
        yield (
            f"disk: {less}{size_in_words(self.stays)} stay: encoders {size_in_words(self.encoders)}{why}, "
            f'engine.keep_encoders = "{keep}"; shards about {size_in_words(self.shards)}, predictions and reports '
            f"about {size_in_words(self.predictions)}; with a phase's checkpoints {size_in_words(self.peak)} at most"
        )
        if self.left is not None:
            more = max(0, self.peak - self.there)
            files = "" if self.left.files is None else f" and {self.left.files:,} more files"
            free = f"{size_in_words(self.left.free)} free{files}"
            yield f"      {size_in_words(more)} more than now; {self.left.by} has {free}"
            if more > self.left.free:
                other = 'set engine.keep_encoders = "none", ' if keep != NONE else ""
                yield f"      warning: that is more than is free: {other}lower engine.keep_checkpoints, or change --out"


def disk_plan(
    graph: Graph,
    out: Path,
    data_root: Path | None,
    sizes: Sizes | None = None,
    models: Mapping[Base, Model] | None = None,
) -> DiskPlan:
    """The reckoning of a study: exact where data is prepared, else by the ``sizes`` of what is read.

    ``models`` are given where a base is not at hand.
    """
    models = models or {base: Model.of(folder) for base, folder in graph.bases.items()}
    sizes = sizes or Sizes(graph, out, data_root)
    keep = graph.study.engine.keep_encoders
    phases = list(graph.phases.values())
    needs = {phase.hash: _needs(phase, graph, models[phase.base], out, sizes) for phase in phases}
    there = bytes_below(out / PREPARED, *(phase.run_directory(out).path for phase in phases))
    shards = _shards(graph, out, sizes)
    children = {phase.hash: {other.hash for other in phases if other.parent == phase.hash} for phase in phases}
    kept = {phase.hash: needs[phase.hash].stays for phase in phases}
    sure = {phase.hash: needs[phase.hash].sure for phase in phases}
    now = peak = shards
    over: set[str] = set()
    for phase in phases:
        peak = max(peak, now + needs[phase.hash].peak)
        now += kept[phase.hash]
        over.add(phase.hash)
        for parent in (graph.phases[key] for key in ([phase.parent] if phase.parent else [])):
            if parent.kind == TARGET and keep != ALL and children[parent.hash] <= over:
                fewer = record_bytes(0) if keep == NONE else sure[parent.hash]
                now -= kept[parent.hash] - fewer
                kept[parent.hash] = sure[parent.hash] = min(fewer, kept[parent.hash])
    predictions = sum(kept[phase.hash] for phase in phases if phase.kind == EVALUATE)
    encoders = sum(kept.values()) - predictions
    less = sum(kept.values()) - sum(sure.values())
    return DiskPlan(needs, there, shards, encoders, less, predictions + _REPORT, max(peak, now), space(out))


def _needs(phase: Phase, graph: Graph, model: Model, out: Path, sizes: Sizes) -> Needs:
    run = phase.run_directory(out)
    if run.done:
        stays = bytes_below(run.path)
        return Needs(stays, stays, stays, sure=stays)
    try:
        return of_phase(run, PhaseFile.read(run))
    except (UserError, OSError):  # its data are not prepared yet
        pass
    if phase.kind != EVALUATE:
        steps = steps_of(phase, sizes)
        one = selects_last(phase.recipe, steps)
        return of_training(model, graph.study.engine, None, steps, one)
    read = sizes.of_all(reading for reading in phase.readings if reading.role == EVALUATE)
    tokens, examples = sum(one.tokens for one in read), sum(one.examples for one in read)
    return of_evaluation(tokens, examples, len(read), graph.specs[phase.tasks[0]].format)


def _shards(graph: Graph, out: Path, sizes: Sizes) -> int:
    """Those that are there, and those that are still to be made."""
    phases = graph.phases.values()
    whole = list(dict.fromkeys(reading for phase in phases for reading in phase.readings))
    by = by_tokenizer(graph.bases, phases) if len(graph.bases) == len(graph.study.bases) else {out: whole}
    new = [size for readings in by.values() for size in sizes.of_all(readings) if size.by != SHARD]
    made = sum(_TOKEN * size.tokens + _EXAMPLE * size.examples + _SHARD for size in new)
    return bytes_below(out / PREPARED) + int(made)
