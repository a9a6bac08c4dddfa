"""Treebanks: what the reader of CoNLL-U takes and refuses, and measures of morphology worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrain.errors import UserError
from xtrain.language_facts import TreebankMeasures, Word, measure_treebank, parse_conllu, read_conllu
from xtrain.language_facts.treebanks import expected_entropy, expected_types


def line(place: object, form: str, lemma: str = "_", upos: str = "_", feats: str = "_") -> str:
    return "\t".join([str(place), form, lemma, upos, "_", feats, "_", "_", "_", "_"])


SAMPLE = [
    "# sent_id = 1",
    "# text = Im Haus",
    line("1-2", "Im"),
    line(1, "in", "in", "ADP"),
    line(2, "dem", "der", "DET", "Case=Dat|Definite=Def|Gender=Masc,Neut"),
    line(3, "Haus", "Haus", "NOUN", "Case=Dat|Number=Sing"),
    line("3.1", "steht", "stehen", "VERB"),
    line(4, ".", ".", "PUNCT"),
    "",
    "# text = _",
    line("0.1", "x"),
    line(1, "_", "_", "SYM"),
    line(2, "đất nước", "_", "NOUN"),
]


def test_ranges_empty_nodes_and_comments_are_no_words() -> None:
    first, second = parse_conllu([*SAMPLE, ""], "sample")
    assert [word.form for word in first] == ["in", "dem", "Haus", "."]
    assert first[1] == Word("dem", "der", "DET", (("Case", "Dat"), ("Definite", "Def"), ("Gender", "Masc,Neut")))
    assert second == (Word("_", "_", "SYM"), Word("đất nước", "", "NOUN"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_reads_as_its_lines(tmp_path: Path, end: str) -> None:
    path = tmp_path / "de.conllu"
    path.write_bytes(b"\xef\xbb\xbf" + end.join(SAMPLE).encode())
    assert list(read_conllu(path)) == list(parse_conllu(SAMPLE, "sample"))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("1\tdas\tder", "t:2: has 3 columns, and CoNLL-U 10"),
        (line("eins", "das"), "t:2: ID: 'eins' is none"),
        (line(2, "das"), "t:2: ID: is 2 after 0 words"),
        (line("2-3", "das"), "t:2: ID: is 2-3 after 0 words"),
        (line("2.1", "das"), "t:2: ID: is 2.1 after 0 words"),
        (line(1, ""), "t:2: FORM: is empty"),
        (line(1, "das", ""), "t:2: LEMMA: is empty"),
        (line(1, "das", "der", "Det"), "t:2: UPOS: 'Det' is no part of speech"),
        (line(1, "das", "der", "DET", "Case"), "t:2: FEATS: 'Case' is not understood"),
        (line(1, "das", "der", "DET", "Case=|A=b"), "t:2: FEATS: 'Case=|A=b' is not understood"),
        (line(1, "das", "der", "DET", "A=b|A=c"), "t:2: FEATS: 'A=b|A=c' names a feature twice"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(bad: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        list(parse_conllu(["# a comment", bad, line(2, "gut"), ""], "t"))
    assert len(raised.value.problems) == 1
    assert str(raised.value).startswith(said)


def test_all_mistakes_are_told_at_once_and_sound_sentences_come_first() -> None:
    lines = [line(1, "a"), line(3, "b"), "", line(1, "c"), "", line(1, "d", upos="v"), ""]
    sentences = parse_conllu(lines, "t")
    assert next(sentences) == (Word("c", "", ""),)
    with pytest.raises(UserError) as raised:
        next(sentences)
    assert [problem.where for problem in raised.value.problems] == ["t:2: ID", "t:6: UPOS"]


def test_nobody_reads_a_thousand_messages() -> None:
    with pytest.raises(UserError, match="only the first 20") as raised:
        list(parse_conllu([cell for _ in range(1000) for cell in ("x", "")], "t"))
    assert len(raised.value.problems) == 20


def test_files_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    packed = tmp_path / "a.conllu"
    packed.write_bytes(b"\x1f\x8b\x08rest")
    with pytest.raises(UserError, match="gzip"):
        list(read_conllu(packed))
    latin = tmp_path / "b.conllu"
    latin.write_bytes(line(1, "é").encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.conllu:1: byte 0xe9 is not UTF-8"):
        list(read_conllu(latin))
    with pytest.raises(UserError, match=r"none\.conllu: cannot be read: No such file"):
        list(read_conllu(tmp_path / "none.conllu"))


def words(text: str) -> list[Word]:
    """``form/lemma`` or ``form/lemma/UPOS``; nouns unless they say otherwise."""
    cells = [token.split("/") for token in text.split()]
    return [Word(cell[0], cell[1], cell[2] if len(cell) > 2 else "NOUN") for cell in cells]


def test_measures_by_hand() -> None:
    # dog: Dog and dogs, once each as nouns, once as a verb; cat: twice alike. Signs and digits are no words.
    sentence = words("Dog/dog dogs/dog dog/dog/VERB cat/cat Cat/cat ./.")
    sentence[-1] = Word(".", ".", "PUNCT", (("PunctType", "Peri"),))
    sentence[0] = Word("Dog", "dog", "NOUN", (("Number", "Sing"), ("Case", "Nom")))
    found = measure_treebank([sentence, [Word("3", "3", "NUM", (("NumType", "Card"),))]], size=5)
    assert (found.words, found.size) == (5, 5)
    assert found.features_per_word == 2 / 5
    assert found.forms_per_lemma == pytest.approx(4 / 3)
    # of the lemma dog (noun), 2 of 5 words: one bit; of the others none
    assert found.form_entropy == pytest.approx(2 / 5)
    assert found.missing == {}


def test_a_treebank_without_lemmas_or_features_says_so() -> None:
    found = measure_treebank([[Word("a", "", "NOUN"), Word("b", "b", "NOUN")]], size=2)
    assert (found.features_per_word, found.forms_per_lemma, found.form_entropy) == (None, None, None)
    assert found.missing["form_entropy"] == "1 word with a lemma, and a sample has 2"
    assert "FEATS" in found.missing["features_per_word"]
    nothing = measure_treebank([])
    assert nothing.missing["features_per_word"] == "there are no words"


def test_a_record_comes_back_from_json() -> None:
    found = measure_treebank([words("a/a b/a c/c")], size=2)
    assert TreebankMeasures.of(found.as_json()) == found


def samples(counts: list[int], size: int) -> list[Counter[int]]:
    """Every sample of ``size`` tokens, each as likely as the others."""
    tokens = [kind for kind, count in enumerate(counts) for _ in range(count)]
    return [Counter(drawn) for drawn in itertools.combinations(tokens, size)]


def entropy(counts: Counter[int]) -> float:
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


@settings(max_examples=40)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_expected_values_are_the_means_over_all_samples(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, sum(counts)))
    drawn = samples(counts, size)
    assert expected_types(counts, size) == pytest.approx(mean(len(one) for one in drawn))
    assert expected_entropy(counts, size) == pytest.approx(mean(entropy(one) for one in drawn), abs=1e-9)


def test_expected_values_hold_for_large_texts() -> None:
    counts = [100_000, 50_000, 1, 1]
    assert expected_types(counts, sum(counts)) == pytest.approx(4)
    assert expected_types(counts, 2000) == pytest.approx(2 + 2 * 2000 / 150_002, rel=1e-6)
    whole = entropy(Counter(dict(enumerate(counts))))
    assert expected_entropy(counts, 2000) == pytest.approx(whole, abs=2e-3)


def test_a_longer_treebank_of_the_same_text_has_the_same_measures() -> None:
    """What the plain counts would not have: twice the words, and as many forms."""
    text = words("a/a b/a c/c d/d e/d f/d g/g h/h i/h j/j")
    short, long = (measure_treebank([text] * times, size=10) for times in (100, 1000))
    assert short.forms_per_lemma == pytest.approx(long.forms_per_lemma, rel=5e-3)
    assert short.form_entropy == pytest.approx(long.form_entropy, rel=1e-2)
