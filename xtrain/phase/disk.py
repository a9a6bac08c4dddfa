"""What a phase takes of the disk, reckoned beforehand, and whether that is there before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xtrain.disk_space import Space, bytes_below, same_disk, space
from xtrain.errors import Problem, UserError
from xtrain.graph import EVALUATE
from xtrain.model.config_file import read_config
from xtrain.phase.exporting import used_rows
from xtrain.phase.file import PhaseFile
from xtrain.run_directory import RunDirectory
from xtrain.study import Engine, Recipe
from xtrain.tasks.encoding import TOKENIZER_FILES
from xtrain.training.budget import size_in_words
from xtrain.training.plan import planned

FP32 = 4
STATES = 3  # weights and two moments: a full checkpoint
_FILES = 200  # names that a phase makes, generously
# Of predictions and outcomes.npz, as measured on the demo: an id, a label and brackets an example; in tagging also a
# tag a word, elsewhere what some formats have besides (retrieval a second answer).
_BYTES_PER_EXAMPLE, _BYTES_PER_TOKEN, _BYTES_PER_TAG = 75, 1.2, 6.0
_RECORD, _RECORD_LANGUAGE = 110_000, 2_500


@dataclass(frozen=True)
class Model:
    """How many numbers the encoder has."""

    words: int
    """Rows of the word embeddings."""
    width: int
    rest: int
    """Parameters beside the word embeddings."""
    beside: int = 0
    """Bytes of the tokenizer, which every encoder has beside it."""
    layers: int = 0
    matrices: int = 0
    """Of ``rest``, the parameters in the blocks' matrices, which every token is multiplied with."""

    @classmethod
    def of(cls, folder: Path) -> Model:
        """That of the encoder in ``folder``, by its configuration: without a look at the weights."""
        config, beside = read_config(folder), sum((folder / name).stat().st_size for name in _beside(folder))
        return cls.sized(
            config.vocab_size, config.hidden_size, config.num_hidden_layers, config.intermediate_size,
            config.max_position_embeddings + config.type_vocab_size, beside,
        )  # fmt: skip

    @classmethod
    def sized(cls, words: int, hidden: int, layers: int, inner: int, positions: int, beside: int) -> Model:
        """One of these sizes; ``positions`` are the rows of the position and type embeddings together."""
        matrices = layers * (4 * hidden * hidden + 2 * hidden * inner)
        vectors = layers * (4 * hidden + inner + hidden + 4 * hidden)
        rest = matrices + vectors + (positions + 2) * hidden  # and the norm's two
        return cls(words, hidden, rest, beside, layers, matrices)

    def parameters(self, rows: int | None = None) -> int:
        """All, or with only so many ``rows`` of the word embeddings."""
        return self.rest + (self.words if rows is None else min(rows, self.words)) * self.width


def _beside(folder: Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()]


@dataclass(frozen=True)
class Needs:
    """Bytes on the disk."""

    least: int
    """Without which the phase cannot end: a checkpoint if it comes to one, the last weights, the encoder."""
    peak: int
    """With all the checkpoints that it keeps, and one on its way."""
    stays: int
    """Once it is done."""
    checkpoints: int = 0
    """Of ``least``, what lies in ``checkpoints/``."""
    sure: int = 0
    """Of ``stays``, what is there whichever step is selected: one encoder, and not the last step's beside it."""


def of_training(model: Model, engine: Engine, rows: int | None, steps: int | None, one: bool = False) -> Needs:
    """What a training phase needs, with ``rows`` trained word embeddings (None: all) in ``steps`` (None: many).

    ``one``: the last step is selected for certain (:func:`selects_last`), so that there is one encoder.
    """
    weights, encoder = FP32 * model.parameters(rows), FP32 * model.parameters() + model.beside
    due = engine.keep_checkpoints + 1 if steps is None else (steps - 1) // engine.checkpoint_every
    saves = min(engine.keep_checkpoints + 1, due)
    here = STATES * weights * min(1, saves) + weights
    record = record_bytes(0)
    stays = (encoder if one else 2 * encoder) + record
    peak = STATES * weights * saves + 2 * weights + 2 * encoder
    return Needs(here + encoder, peak, stays, here, encoder + record)


def selects_last(recipe: Recipe, steps: int) -> bool:
    """Whether the last step is the selected one for certain: dev is looked at then only, or not at all."""
    return not recipe.eval_examples or steps <= recipe.eval_every


def record_bytes(languages: int) -> int:
    """What a phase writes beside its result, roughly: phase.toml, job/, logs/, events and metrics, W&B's files; of
    an evaluation in ``languages``, also what became of each data set, and the scores."""
    return _RECORD + languages * _RECORD_LANGUAGE


def of_evaluation(tokens: float, examples: float, languages: int, format_: str) -> Needs:
    """What an evaluation leaves: predictions, their outcomes and the scores of ``languages``, of a task in a format."""
    each = _BYTES_PER_TAG if format_ == "tagging" else _BYTES_PER_TOKEN
    size = int(each * tokens + _BYTES_PER_EXAMPLE * examples) + record_bytes(languages)
    return Needs(size, size, size, sure=size)


def of_phase(run: RunDirectory, phase: PhaseFile) -> Needs:
    """What the phase of a run directory needs; its shards are there."""
    if phase.kind == EVALUATE:
        shards = [shard for _, shard in phase.open_shards(run, EVALUATE)]
        tokens, examples = sum(shard.num_tokens for shard in shards), sum(len(shard) for shard in shards)
        return of_evaluation(tokens, examples, len(shards), phase.task[phase.tasks[0]].format)
    model = Model.of(phase.start_folder(run))
    whole = not phase.engine.used_vocabulary or any(phase.task[task].format == "mlm" for task in phase.tasks)
    sizes = {task: sum(len(shard) for _, shard in phase.open_shards(run, "train", task)) for task in phase.tasks}
    steps = planned(sizes, phase.recipe)[1]
    rows = None if whole else len(used_rows(run, phase))
    return of_training(model, phase.engine, rows, steps, selects_last(phase.recipe, steps))


def check_disk(run: RunDirectory, phase: PhaseFile) -> str:
    """Raise a :class:`UserError` where the phase cannot end on this disk; a warning where it may get tight, or ``""``.

    What lies in the run directory already is a part of what it needs.
    """
    needs = of_phase(run, phase)
    there = bytes_below(run.checkpoints), bytes_below(run.encoder, run.encoder_last, run.predictions)
    if same_disk(run.path, run.checkpoints):
        parts = [(run.path, needs.least - sum(there), needs.peak - sum(there))]
    else:
        beside = needs.stays if needs.checkpoints else needs.least
        parts = [
            (run.checkpoints, needs.checkpoints - there[0], needs.peak - beside - there[0]),
            (run.path, needs.least - needs.checkpoints - there[1], beside - there[1]),
        ]
    found = [(path, least, peak, left) for path, least, peak in parts if (left := space(path)) is not None]
    problems = [_problem(path, max(0, least), left, phase) for path, least, _, left in found if _short(least, left)]
    if problems:
        raise UserError(*problems)
    return "; ".join(
        f"the disk may get full: up to {size_in_words(peak)} may be needed at a time, and {left.by} has "
        f"{size_in_words(left.free)} free (lower engine.keep_checkpoints, or make room)"
        for _, _, peak, left in found
        if peak > left.free
    )


def _short(needed: int, left: Space) -> bool:
    return needed > left.free or (left.files is not None and left.files < _FILES)


def _problem(path: Path, needed: int, left: Space, phase: PhaseFile) -> Problem:
    if needed <= left.free:
        what = f"room for {left.files} more files is left, and phase {phase.name} makes up to {_FILES}"
    else:
        kept = "checkpoint, last weights and encoder" if phase.kind != EVALUATE else "predictions"
        what = (
            f"phase {phase.name} needs at least {size_in_words(needed)} more ({kept}), and {left.by} has "
            f"{size_in_words(left.free)} free"
        )
    remedy = "make room there (python -m xtrain checkpoint prune RUN, encoders that nothing starts from any more, "
    remedy += "engine.keep_encoders), or choose another folder with --out; then run the same command again"
    return Problem(str(path), what, remedy=remedy)
