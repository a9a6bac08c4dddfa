"""What is meant by a language's code: those of all standards, and what is written by mistake."""

from __future__ import annotations

import pytest

from xtrain.languages import meant, name_of, names, proposed
from xtrain.tasks import catalog


@pytest.mark.parametrize(
    ("code", "known", "expected"),
    [
        ("iw", ["en", "he", "hi"], "did you mean 'he' (Hebrew)?"),
        ("zh-CN", ["ja", "zh"], "did you mean 'zh' (Chinese)?"),
        ("zho", ["zh"], "did you mean 'zh' (Chinese)?"),
        ("chi", ["zh"], "did you mean 'zh' (Chinese)?"),
        ("cmn_Hans", ["zh"], "did you mean 'zh' (Chinese)?"),
        ("jp", ["jv", "ja"], "did you mean 'ja' (Japanese)?"),
        ("cz", ["cs"], "did you mean 'cs' (Czech)?"),
        ("gr", ["el"], "did you mean 'el' (Greek)?"),
        ("ua", ["uk"], "did you mean 'uk' (Ukrainian)?"),
        ("kr", ["ko"], "did you mean 'ko' (Korean)?"),
        ("kr", ["ko", "kau"], "did you mean 'kau' (Kanuri)?"),
        ("eng_Latn", ["en"], "did you mean 'en' (English)?"),
        ("he", ["heb_Hebr"], "did you mean 'heb_Hebr' (Hebrew)?"),
        ("in", ["hi", "id"], "did you mean 'id' (Indonesian)?"),
        ("se", ["sv"], "did you mean 'sv' (Swedish)?"),
        ("PT-br", ["pt"], "did you mean 'pt' (Portuguese)?"),
        ("zh-TW", ["zh-CN", "zh-HK"], "did you mean 'zh-CN' (Chinese)?"),
        ("nb", ["no"], "did you mean 'no' (Norwegian)?"),
        ("toy-a", ["toy-b"], "did you mean 'toy-b'?"),
        ("xx", ["de", "fr"], ""),
        ("hau", ["hat", "haw"], ""),
    ],
)
def test_the_code_in_use_is_proposed(code: str, known: list[str], expected: str) -> None:
    assert proposed(code, known) == expected


def test_every_code_of_the_catalogue_and_of_the_standard_is_known() -> None:
    two_letters = [code for code in names() if len(code) == 2]
    assert len(two_letters) >= 184, "ISO 639-1 has 184"
    benchmark = {one for spec in catalog.load().values() for codes in spec.benchmarks.values() for one in codes}
    for name in ("xnli", "udpos", "tatoeba", "xquad", "tydiqa", "xcopa", "lareqa"):
        benchmark |= set(catalog.load()[name].languages)
    assert not [code for code in benchmark if not name_of(code)]


def test_tatoebas_own_names_are_those_of_the_same_languages() -> None:
    codes = catalog.load()["tatoeba"].language_codes
    assert {code: meant(code, codes) for code in codes.values()} == {code: own for own, code in codes.items()}
