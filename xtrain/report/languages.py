"""English names of language codes, for the reader of a table."""

from __future__ import annotations

import unicodedata

_NAMES = """
af Afrikaans|am Amharic|ar Arabic|as Assamese|ast Asturian|ay Aymara|az Azerbaijani|be Belarusian
bg Bulgarian|bn Bengali|br Breton|bs Bosnian|ca Catalan|ckb Central Kurdish|cs Czech|cy Welsh|da Danish
de German|dsb Lower Sorbian|el Greek|en English|eo Esperanto|es Spanish|et Estonian|eu Basque|fa Persian
fi Finnish|fil Filipino|fo Faroese|fr French|fy Western Frisian|ga Irish|gd Scottish Gaelic|gl Galician
gn Guarani|gu Gujarati|ha Hausa|he Hebrew|hi Hindi|hr Croatian|hsb Upper Sorbian|ht Haitian Creole
hu Hungarian|hy Armenian|ia Interlingua|id Indonesian|ig Igbo|io Ido|is Icelandic|it Italian|ja Japanese
jv Javanese|ka Georgian|kab Kabyle|kk Kazakh|km Khmer|kn Kannada|ko Korean|ku Kurdish|ky Kyrgyz|la Latin
lb Luxembourgish|lg Ganda|lo Lao|lt Lithuanian|lv Latvian|mg Malagasy|mi Maori|mk Macedonian|ml Malayalam
mn Mongolian|mr Marathi|ms Malay|mt Maltese|my Burmese|nb Norwegian Bokmål|ne Nepali|nl Dutch
nn Norwegian Nynorsk|no Norwegian|oc Occitan|om Oromo|or Odia|os Ossetic|pa Punjabi|pl Polish|ps Pashto
pt Portuguese|qu Quechua|ro Romanian|ru Russian|rw Kinyarwanda|sa Sanskrit|sd Sindhi|si Sinhala|sk Slovak
sl Slovenian|sn Shona|so Somali|sq Albanian|sr Serbian|su Sundanese|sv Swedish|sw Swahili|ta Tamil
te Telugu|tg Tajik|th Thai|tk Turkmen|tl Tagalog|tn Tswana|tr Turkish|tt Tatar|udm Udmurt|ug Uyghur
uk Ukrainian|ur Urdu|uz Uzbek|vi Vietnamese|wo Wolof|xh Xhosa|yi Yiddish|yo Yoruba|zh Chinese|zu Zulu
"""
_VARIANTS = """
cyrl Cyrillic|latn Latin script|hans simplified|hant traditional|cn simplified|tw traditional
ar Argentina|at Austria|au Australia|br Brazil|ca Canada|ch Switzerland|co Colombia|dz Algeria|gb Britain
in India|mx Mexico|ni Nicaragua|pt Portugal|us United States|ve Venezuela
"""


def _read(text: str) -> dict[str, str]:
    entries = text.replace("\n", "|").strip("|").split("|")
    return {code: name for code, _, name in (entry.partition(" ") for entry in entries)}


LANGUAGE_NAMES = _read(_NAMES)
VARIANT_NAMES = _read(_VARIANTS)


def language_name(code: str) -> str:
    """The English name of ``code``, as ``Portuguese (Brazil)`` for ``pt_BR``; empty if it is not known."""
    parts = code.replace("-", "_").lower().split("_")
    name = LANGUAGE_NAMES.get(parts[0], "")
    variants = [VARIANT_NAMES.get(part, part.upper()) for part in parts[1:]]
    return f"{name} ({', '.join(variants)})" if name and variants else name


def ascii_only(text: str) -> str:
    """``text`` without accents, and ``?`` for what ASCII has not, for a log that may not show it."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def in_reading_order(codes: set[str]) -> tuple[str, ...]:
    """English, the language that was trained on, first; then the others by code."""
    return tuple(sorted(codes, key=lambda code: (code != "en", code)))
