"""Measures of morphology in a treebank with lemmas and features, all at the same size of sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from xtrain.errors import counted
from xtrain.language_facts.conllu import Word

SIZE = 2_000
"""Words of a sample: what the smaller treebanks of UDPOS's languages have, too."""
NOT_COUNTED = frozenset({"PUNCT", "SYM", "NUM", "X"})
"""Parts of speech that are no words of the language (signs, digits, foreign words): left out of every measure."""


@dataclass(frozen=True)
class TreebankMeasures:
    """What :func:`measure_treebank` finds; ``missing`` says why a measure is None."""

    words: int
    """All that count (:data:`NOT_COUNTED` does not)."""
    size: int
    """Words of the samples that the last two are expected values of."""
    features_per_word: float | None = None
    forms_per_lemma: float | None = None
    form_entropy: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Measure -> reason."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TreebankMeasures:
        """From :meth:`as_json`."""
        return cls(**{item.name: record[item.name] for item in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return asdict(self)


def measure_treebank(sentences: Iterable[Sequence[Word]], size: int = SIZE) -> TreebankMeasures:
    """Features a word, forms a lemma and the entropy of forms given the lemma.

    Forms and lemmas are compared without case, and a lemma is one of its part of speech. Words that have no lemma
    count for features alone. The two measures that grow with a text are expected values over samples of ``size`` words
    drawn from it without replacement, exactly and not by drawing (:func:`forms_per_lemma`, :func:`form_entropy`).
    """
    assert size > 0, f"a sample has words: {size}"
    words = features = 0
    forms: Counter[tuple[str, str, str]] = Counter()
    for sentence in sentences:
        for word in sentence:
            if word.upos not in NOT_COUNTED:
                words += 1
                features += len(word.features)
                if word.lemma:
                    forms[word.lemma.casefold(), word.upos, word.form.casefold()] += 1
    missing: dict[str, str] = {}
    if not words:
        missing["features_per_word"] = "there are no words"
    elif not features:
        missing["features_per_word"] = "no word has features (the column FEATS)"
    if forms.total() < size:
        reason = f"{counted(forms.total(), 'word')} with a lemma, and a sample has {size:,}"
        missing |= {"forms_per_lemma": reason, "form_entropy": reason}
    return TreebankMeasures(
        words=words,
        size=size,
        features_per_word=None if "features_per_word" in missing else features / words,
        forms_per_lemma=None if "forms_per_lemma" in missing else forms_per_lemma(forms, size),
        form_entropy=None if "form_entropy" in missing else form_entropy(forms, size),
        missing=missing,
    )


Forms = Mapping[tuple[str, str, str], int]
"""Lemma, part of speech and form -> how often they stand together."""


def forms_per_lemma(forms: Forms, size: int) -> float:
    """Different forms over different lemmas, expected in ``size`` words: ``E[F] / E[L]``.

    The mean size of paradigm of Xanthos et al. 2011 ("On the role of morphological richness in the early development
    of noun and verb inflection", First Language 31(4), 461-479), which grows with the text. Here both counts are
    rarefied to the same size (:func:`expected_types`); it is a ratio of two expected values.
    """
    return expected_types(forms.values(), size) / expected_types(_lemmas(forms).values(), size)


def form_entropy(forms: Forms, size: int) -> float:
    """``H(form | lemma) = H(form, lemma) - H(lemma)`` in bits, expected in ``size`` words (:func:`expected_entropy`).

    The entropies are those of the relative frequencies (Shannon 1948; the difference by the chain rule, Cover & Thomas,
    Elements of Information Theory, chapter 2), which are too small in a small sample: to be compared at one size only.
    """
    return max(0.0, expected_entropy(forms.values(), size) - expected_entropy(_lemmas(forms).values(), size))


def _lemmas(forms: Forms) -> Counter[tuple[str, str]]:
    lemmas: Counter[tuple[str, str]] = Counter()
    for (lemma, upos, _), count in forms.items():
        lemmas[lemma, upos] += count
    return lemmas


def expected_types(counts: Iterable[int], size: int) -> float:
    """How many types ``size`` tokens have, drawn without replacement from a text in which types stand ``counts`` times.

    ``sum(1 - C(N - c, n) / C(N, n))`` over the types, with ``N = sum(counts)``: rarefaction (Hurlbert 1971, Ecology
    52(4), 577-586).
    """
    sizes = Counter(counts)
    total = _total(sizes, size)
    whole = _log_choose(total, size)
    return math.fsum(
        types * (1.0 - (math.exp(_log_choose(total - count, size) - whole) if count <= total - size else 0.0))
        for count, types in sizes.items()
    )


def expected_entropy(counts: Iterable[int], size: int) -> float:
    """The entropy in bits of the relative frequencies in ``size`` tokens, expected as in :func:`expected_types`.

    ``sum(P(x) * -(x / n) * log2(x / n))`` over the types and over how often ``x`` a type is among the ``n`` tokens;
    ``P`` is hypergeometric: ``C(c, x) * C(N - c, n - x) / C(N, n)``.
    """
    sizes = Counter(counts)
    total = _total(sizes, size)
    whole = _log_choose(total, size)
    terms: list[float] = []
    for count, types in sizes.items():
        for drawn in range(max(1, size - (total - count)), min(count, size) + 1):
            log_p = _log_choose(count, drawn) + _log_choose(total - count, size - drawn) - whole
            share = drawn / size
            terms.append(types * math.exp(log_p) * -share * math.log2(share))
    return math.fsum(terms)


def _total(sizes: Mapping[int, int], size: int) -> int:
    assert all(count > 0 for count in sizes), "a type that is there stands somewhere"
    total = sum(count * types for count, types in sizes.items())
    assert 0 < size <= total, f"{size} of {total} tokens cannot be drawn"
    return total


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
