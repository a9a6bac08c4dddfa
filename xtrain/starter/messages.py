"""Turn Django's message catalogues into two tasks: classify a message, find its English sentence.

What is a message, and of which class (the label is the component of Django that shows it):

- Text outside placeholders must hold a word of two letters or more; runs of white space become one space.
- Two messages are the same if they differ only in case, white space and the punctuation around them. What
  is the same in two components has no one answer and is left out; what is the same in one counts once.
- A component with at least 20 such messages is a label; the few messages of the smaller ones (sites,
  sessions, postgres and the like) are left out, for too little could be learned of them.
- A message is held out in every language or in none: its split hangs on its English text alone.
- A translation that is the same as the English is no message of that language.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.files import make_folder, write_text
from xtrain.starter import packages
from xtrain.starter.catalogues import messages
from xtrain.starter.english import json_lines

ENGLISH = "en"
MIN_LABEL = 20  # messages of a component that is a label
MIN_LANGUAGE = 200  # messages of a language that is written
MIN_PAIRS = 50  # sentence pairs of a language that is written
MIN_WORDS = 4  # words of a sentence
SPLITS = (("train", 0.6), ("dev", 0.7), ("test", 1.0))  # upper ends on the line from 0 to 1

_CATALOGUE = re.compile(r"django/(?:conf|contrib/(\w+))/locale/(\w+)/LC_MESSAGES/\w+\.po")
_PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[a-z%]|\{\w*\}|&\w+;|<[^>]*>")
_WORD = re.compile(r"[^\W\d_]{2}")
_LETTER = re.compile(r"[^\W\d_]")

Translations = dict[tuple[str, str], str]  # (component, English text) -> text in the language


def key(text: str) -> str:
    """What two messages have in common that are the same."""
    return " ".join(text.casefold().split()).strip(" .:…")


def split_of(text: str) -> str:
    """train, dev or test (about 60, 10 and 30 in 100), from the hash of the English ``text``."""
    digest = hashlib.sha256(f"messages:{key(text)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(name for name, end in SPLITS if place < end)


def read(archive: zipfile.ZipFile) -> dict[str, Translations]:
    """Language -> its translations, of every catalogue in the package; `en` maps each to itself.

    The catalogues of the English language list every message, with no translation. Languages are named
    as BCP 47 does (`pt-BR`, `zh-Hans`). Raises :class:`UserError` for a catalogue that cannot be read.
    """
    found: dict[str, Translations] = {}
    for member in sorted(archive.namelist()):
        match = _CATALOGUE.fullmatch(member)
        if not match:
            continue
        component, language = match[1] or "core", match[2].replace("_", "-")
        text = packages.read(archive, member).decode("utf-8")
        for (_, english), translation in messages(text, member).items():
            translation = english if language == ENGLISH else translation
            if translation:
                found.setdefault(language, {}).setdefault((component, english), _tidy(translation))
    return found


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> int:
    return sum(bool(_LETTER.search(word)) for word in _PLACEHOLDER.sub(" ", text).split())


def labelled(english: Translations) -> dict[tuple[str, str], str]:
    """``(component, English text) -> label`` for the messages that have one."""
    components: dict[str, set[str]] = {}
    for component, text in english:
        components.setdefault(key(text), set()).add(component)
    kept: dict[str, tuple[str, str]] = {}
    for component, text in english:
        if len(components[key(text)]) == 1 and _WORD.search(_PLACEHOLDER.sub(" ", text)):
            kept.setdefault(key(text), (component, text))
    sizes = Counter(component for component, _ in kept.values())
    return {message: message[0] for message in kept.values() if sizes[message[0]] >= MIN_LABEL}


@dataclass(frozen=True)
class Row:
    """One message in one language; the fields are the columns of ``messages/{lang}.jsonl``."""

    id: str
    text: str
    label: str
    split: str


def _id(english: str) -> str:
    return hashlib.sha256(english.encode()).hexdigest()[:12]


def classification(translations: Mapping[str, Translations]) -> dict[str, list[Row]]:
    """Language -> rows of ``messages``, for the languages with at least ``MIN_LANGUAGE`` of them."""
    labels = labelled(translations[ENGLISH])
    found = {}
    for language, texts in translations.items():
        rows = [
            Row(_id(message[1]), texts[message], label, split_of(message[1]))
            for message, label in labels.items()
            if message in texts and _is_of(language, texts[message], message[1])
        ]
        if len(rows) >= MIN_LANGUAGE:
            found[language] = rows
    return found


def _is_of(language: str, text: str, english: str) -> bool:
    return language == ENGLISH or (bool(_LETTER.search(text)) and key(text) != key(english))


@dataclass(frozen=True)
class Pair:
    """A sentence and its English; the fields are the columns of ``message_retrieval/{lang}.jsonl``."""

    id: str
    source: str
    target: str


def retrieval(translations: Mapping[str, Translations]) -> dict[str, list[Pair]]:
    """Language -> sentence pairs, no sentence twice on either side, for at least ``MIN_PAIRS`` pairs."""
    sentences: dict[str, tuple[str, str]] = {}
    for component, text in translations[ENGLISH]:
        if _words(text) >= MIN_WORDS:
            sentences.setdefault(key(text), (component, text))
    found = {}
    for language, texts in translations.items():
        pairs: dict[str, Pair] = {}
        for message in sentences.values():
            source = texts.get(message, "")
            if source and language != ENGLISH and _is_of(language, source, message[1]):
                pairs.setdefault(key(source), Pair(_id(message[1]), source, _tidy(message[1])))
        if len(pairs) >= MIN_PAIRS:
            found[language] = list(pairs.values())
    return found


def write(archive: zipfile.ZipFile, out: Path) -> dict[str, int]:
    """Write ``out/messages/{lang}.jsonl`` and ``out/message_retrieval/{lang}.jsonl``.

    Returns the number of languages of each.
    """
    translations = read(archive)
    tasks: dict[str, Mapping[str, list[Row] | list[Pair]]] = {
        "messages": classification(translations),
        "message_retrieval": retrieval(translations),
    }
    for task, languages in tasks.items():
        folder = make_folder(out / task)
        for language, rows in languages.items():
            write_text(folder / f"{language}.jsonl", json_lines([vars(row) for row in rows]))
    return {task: len(languages) for task, languages in tasks.items()}
