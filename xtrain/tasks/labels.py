"""Labels that are taken from the data: ``labels = ["*"]`` stands for those of the training and dev sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from xtrain.errors import UserError
from xtrain.tasks.checking import Counted, Enough
from xtrain.tasks.formats import UNLABELLED, ProblemList, label_word
from xtrain.tasks.sources import read
from xtrain.tasks.spec import EVERY, TaskSpec


def with_labels(
    specs: Mapping[str, TaskSpec], names: Iterable[str], data_root: Path | None, *, lenient: bool = False
) -> dict[str, TaskSpec]:
    """``specs``, where those in ``names`` and the tasks that they train on have their labels in place of ``["*"]``.

    A head has an output for each label, so the set has to be known before a phase is. It is sorted, and so
    the same wherever the same data are. Raises :class:`UserError` where the data are not there or broken; if
    ``lenient``, these are passed over, for who looks at all data then, and ``["*"]`` stays where no label was found.
    """
    found = dict(specs)
    waiting = list(names)
    while waiting:
        spec = found[waiting.pop()]
        waiting += [name for name in (*spec.training_tasks(), *spec.joined) if found[name].labels == (EVERY,)]
        if spec.labels == (EVERY,):
            found[spec.name] = replace(spec, labels=_labels(spec, data_root, lenient) or (EVERY,))
    return found


def _labels(spec: TaskSpec, data_root: Path | None, lenient: bool) -> tuple[str, ...]:
    """Every tag of the training and dev sets, in the languages that the task trains in."""
    labels: set[str] = set()
    problems = Counted() if lenient else ProblemList()
    for split in ("train", "dev"):
        if split not in spec.splits:
            continue
        for language in spec.default_train_languages:
            try:
                for row in read(spec, split, language, data_root, problems):
                    tags = row.values.get("tags")
                    words = {label_word(tag) for tag in (tags if isinstance(tags, (list, tuple)) else ())}
                    # a sentence of "-" alone has no tags, where "-" is not also a tag beside others
                    labels.update(words if words - {*UNLABELLED} else ())
            except (UserError, Enough):
                if not lenient:
                    raise
    if not lenient:
        problems.raise_if_any()
    return tuple(sorted(labels - set(spec.options.get("skip_tags", ()))))
