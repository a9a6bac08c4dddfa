"""Read Mewsli-X's files: mentions with their sentence, entities with their description, and pairs of the two."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record, text_lines
from xtrain.tasks.spec import INDEX_LANGUAGE, Source

# One JSON object a line (google-research, dense_representations_for_entity_retrieval/mel/mewsli-x.md):
#   wikipedia_pairs-{train,dev}.jsonl    {"contextual_mention": {"context": C, "mention": M}, "entity": E}
#   wikinews_mentions-{dev,test}.jsonl   {"context": C, "mentions": [M, ...]}, all languages in one file
#   candidate_set_entities.jsonl         E
#   C = {"language", "text", "sentence_spans": [{"start", "end"}, ...], ...}
#   M = {"example_id", "entity_id", "mention_span": {"start", "end", "text"}}
#   E = {"entity_id", "description", "sentence_spans", ...}
_OBTAIN = (
    "Mewsli-X is made by scripts/download_mewslix_data.sh of google-research/xtreme (or get-mewsli-x.sh of "
    "google-research/google-research, which it calls)"
)
_MARKED = re.compile(r"\{(.*?)\}")
COLUMNS = ("id", "language", "query", "candidate", "right")


def read_mewslix(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """A record for each mention, entity or pair; what a line is, its keys tell.

    Columns: ``id`` (of a mention or pair ``example_id``, of an entity its own), ``language`` ("all" for an
    entity), ``query`` (the mention in its sentence), ``candidate`` (the description) and ``right`` (the
    entity's id); None where a line has none. The texts are XTREME-R's: ``Mention: before { Mention }
    after``, the sentence that holds the mention alone, and the description's sentences.
    """
    for path in paths:
        for number, line in text_lines(path, problems):  # the candidates alone are half a gigabyte
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                yield from (_record(where, values) for values in _values(_object(where, line), where))
            except UserError as error:
                problems.add(*error.problems)


def _object(where: str, line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg} at character {error.colno}"
        raise UserError(Problem(where, what, "one JSON object a line", _OBTAIN)) from None
    if not isinstance(value, dict):
        raise UserError(Problem(where, f"{line[:60]!r} is not a JSON object", "one JSON object a line", _OBTAIN))
    return value


def _record(where: str, values: dict[str, Any]) -> Record:
    row = dict.fromkeys(COLUMNS) | values
    return Record(where, row.__getitem__, COLUMNS)  # type: ignore[arg-type]


def _values(line: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    if "contextual_mention" in line:
        both = _get(line, "contextual_mention", dict, where)
        found = _mention(_get(both, "context", dict, where), _get(both, "mention", dict, where), where)
        entity = _get(line, "entity", dict, where)
        yield {**found, "candidate": _description(entity, where), "right": _get(entity, "entity_id", str, where)}
    elif "mentions" in line:
        for mention in _get(line, "mentions", list, where):
            yield _mention(_get(line, "context", dict, where), mention, where)
    elif "description" in line:
        id_ = _get(line, "entity_id", str, where)
        yield {"id": id_, "language": INDEX_LANGUAGE, "candidate": _description(line, where)}
    else:
        what = "is neither an entity, nor mentions, nor a pair"
        allowed = "description; context and mentions; or contextual_mention and entity"
        raise UserError(Problem(where, what, allowed, _OBTAIN))


def _mention(context: Mapping[str, Any], mention: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mention in its sentence, as XTREME-R writes it."""
    id_ = _get(mention, "example_id", str, where)
    here = f"{where} (example_id {id_})"
    text, span = _get(context, "text", str, here), _get(mention, "mention_span", dict, here)
    if not text:
        what = "has no text: WikiNews' articles are not part of the released files"
        raise UserError(Problem(here, what, remedy=f"put the text back: {_OBTAIN}"))
    begin, end = (_get(span, key, int, here) for key in ("start", "end"))
    word = _get(span, "text", str, here)
    if not 0 <= begin < end or text[begin:end] != word:
        what = f"the mention {word!r} is not at {begin} to {end}, where {text[max(begin, 0) : end]!r} stands"
        raise UserError(Problem(here, what, remedy=f"put the text back: {_OBTAIN}"))
    sentences = [(a, b) for a, b in _spans(context, here) if a <= begin and end <= b]
    if not sentences:
        what = f"the mention {word!r} lies in no sentence"
        raise UserError(Problem(here, what, "a span of sentence_spans around it", _OBTAIN))
    first, last = sentences[0]
    # braces of the text itself would pass for marks
    before, after = (_MARKED.sub(r"(\1)", part) for part in (text[first:begin], text[end:last]))
    return {
        "id": id_,
        "language": _get(context, "language", str, here),
        "query": _plain(f"{word}: {before} {{ {word} }} {after}"),
        "right": _get(mention, "entity_id", str, here),
    }


def _description(entity: Mapping[str, Any], where: str) -> str:
    text = _get(entity, "description", str, where)
    return _plain(" ".join(text[begin:end] for begin, end in _spans(entity, where)))


def _spans(owner: Mapping[str, Any], where: str) -> list[tuple[int, int]]:
    spans = _get(owner, "sentence_spans", list, where)
    return [(_get(span, "start", int, where), _get(span, "end", int, where)) for span in spans]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _get(value: Any, key: str, kind: type, where: str) -> Any:
    """The value under ``key``, which is of ``kind``."""
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        what = f"has no {key}" if found is None else f"{key} is {str(found)[:60]!r}"
        raise UserError(Problem(where, what, _KINDS[kind], _OBTAIN))
    return found


_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "a JSON object"}
