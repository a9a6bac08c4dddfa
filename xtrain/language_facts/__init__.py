"""What is known of languages, and what is measured in their text: descriptors to hold results by language against.

A table of facts (:func:`facts`), measures of raw text (:class:`TextMeter`) and of treebanks (:func:`measure_treebank`),
and typological distances by a package of their own. ``docs/languages.md`` says what each may be used for. Nothing
here imports torch.
"""

from __future__ import annotations

from xtrain.language_facts.conllu import Word, parse_conllu, read_conllu
from xtrain.language_facts.distances import KINDS, typological_distance
from xtrain.language_facts.facts import LanguageFacts, all_facts, by_family, facts, families
from xtrain.language_facts.measures import words_against
from xtrain.language_facts.texts import TextMeasures, TextMeter
from xtrain.language_facts.treebanks import TreebankMeasures, measure_treebank

__all__ = [
    "KINDS",
    "LanguageFacts",
    "TextMeasures",
    "TextMeter",
    "TreebankMeasures",
    "Word",
    "all_facts",
    "by_family",
    "facts",
    "families",
    "measure_treebank",
    "parse_conllu",
    "read_conllu",
    "typological_distance",
    "words_against",
]
