"""Languages by their codes: ISO 639-1, 639-2, 639-3, BCP 47 and common mistakes, and what is meant by one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from xtrain.errors import nearest

# A language a line: its name, then the codes that stand for it, the ones in use first. Beside ISO 639-1, its
# 639-3 and bibliographic 639-2 codes: the standard variety of a macrolanguage, codes withdrawn, and (after "!")
# what is no code of it but is written for it: countries' codes, mostly.
_TABLE = """
Abkhazian ab abk
Acehnese ace
Afar aa aar
Afrikaans af afr
Akan ak aka ! tw twi
Albanian sq sqi alb als
Amharic am amh
Arabic ar ara arb
Aragonese an arg
Armenian hy hye arm
Assamese as asm
Asturian ast
Avaric av ava
Avestan ae ave
Aymara ay aym ayr
Azerbaijani az aze azj
Balinese ban
Bambara bm bam
Banjar bjn
Bashkir ba bak
Basque eu eus baq
Belarusian be bel
Bemba bem
Bengali bn ben ! bd
Betawi bew
Bihari bh bih bho
Bislama bi bis
Bosnian bs bos
Breton br bre
Buginese bug
Bulgarian bg bul
Burmese my mya bur
Catalan ca cat
Cebuano ceb
Central Kurdish ckb
Chamorro ch cha
Chechen ce che
Chewa ny nya
Chinese zh zho chi cmn ! cn zn
Church Slavic cu chu
Chuvash cv chv
Cornish kw cor
Corsican co cos
Cree cr cre
Croatian hr hrv scr
Czech cs ces cze ! cz
Danish da dan ! dk
Divehi dv div
Dutch nl nld dut
Dzongkha dz dzo
English en eng ! uk gb us
Esperanto eo epo
Estonian et est ekk ! ee
Ewe ee ewe
Faroese fo fao
Fijian fj fij
Filipino fil ! tl tgl
Finnish fi fin
Fon fon
French fr fra fre
Fulah ff ful fuv
Galician gl glg
Ganda lg lug
Georgian ka kat geo ! ge
German de deu ger
Ghomala bbj
Gothic got
Greek el ell gre ! gr
Guarani gn grn
Gujarati gu guj
Haitian Creole ht hat
Hausa ha hau
Hebrew he heb iw ! il
Herero hz her
Hindi hi hin
Hiri Motu ho hmo
Hungarian hu hun
Icelandic is isl ice
Ido io ido
Igbo ig ibo
Ilocano ilo
Indonesian id ind in
Interlingua ia ina
Interlingue ie ile
Inuktitut iu iku
Inupiaq ik ipk
Irish ga gle
Italian it ita
Japanese ja jpn ! jp
Javanese jv jav jw
Kabyle kab
Kalaallisut kl kal
Kannada kn kan
Kanuri kr kau knc
Kashmiri ks kas
Kazakh kk kaz ! kz
Khmer km khm ! kh
Kikuyu ki kik
Kinyarwanda rw kin
Komi kv kom
Kongo kg kon
Korean ko kor ! kr
Kuanyama kj kua
Kurdish ku kur kmr
Kyrgyz ky kir
Lao lo lao
Latin la lat
Latvian lv lav lvs
Limburgish li lim
Lingala ln lin
Lithuanian lt lit
Lower Sorbian dsb
Luba-Katanga lu lub
Low German nds
Luo luo
Luxembourgish lb ltz
Macedonian mk mkd mac
Madurese mad
Malagasy mg mlg plt
Malay ms msa may zsm zlm
Malayalam ml mal
Maltese mt mlt
Manx gv glv
Maori mi mri mao
Marathi mr mar
Marshallese mh mah
Minangkabau min
Moldavian mo mol
Mongolian mn mon khk
Mossi mos
Naga Pidgin nag
Nauru na nau
Navajo nv nav
Ndonga ng ndo
Nepali ne nep npi
Ngaju nij
Nigerian Pidgin pcm
N'Ko nqo
North Ndebele nd nde
Northern Sami se sme
Norwegian no nor ! nb nob nn nno
Norwegian Bokmål nb nob ! no nor
Norwegian Nynorsk nn nno ! no nor
Occitan oc oci
Ojibwa oj oji
Odia or ori ory
Oromo om orm gaz
Ossetic os oss
Pali pi pli
Pashto ps pus pbt
Persian fa fas per pes prs ! ir
Polish pl pol
Portuguese pt por
Punjabi pa pan pnb
Quechua qu que quy quz
Romanian ro ron rum
Romansh rm roh
Rundi rn run
Russian ru rus
Samoan sm smo
Sango sg sag
Sanskrit sa san
Santali sat
Sardinian sc srd
Scots sco
Scottish Gaelic gd gla
Serbian sr srp scc
Serbo-Croatian sh hbs
Shan shn
Shona sn sna
Sicilian scn
Sichuan Yi ii iii
Sindhi sd snd
Sinhala si sin
Slovak sk slk slo
Slovenian sl slv
Somali so som
South Ndebele nr nbl
Southern Sotho st sot
Spanish es spa
Sundanese su sun
Swahili sw swa swh
Swati ss ssw
Swedish sv swe ! se
Tagalog tl tgl ! fil
Tahitian ty tah
Tajik tg tgk
Tamil ta tam
Tatar tt tat
Telugu te tel
Thai th tha
Tibetan bo bod tib
Tigrinya ti tir
Toba Batak bbc
Tok Pisin tpi
Tonga to ton
Tsonga ts tso
Tswana tn tsn
Turkish tr tur
Turkmen tk tuk
Twi tw twi ! ak aka
Ukrainian uk ukr ! ua
Udmurt udm
Upper Sorbian hsb
Urdu ur urd
Uyghur ug uig
Uzbek uz uzb uzn
Venda ve ven
Vietnamese vi vie ! vn
Volapük vo vol
Walloon wa wln
Waray war
Welsh cy cym wel
Western Frisian fy fry
Wolof wo wol
Wu Chinese wuu
Xhosa xh xho
Yakut sah
Yiddish yi yid ji ydd
Yoruba yo yor
Yue Chinese yue
Zhuang za zha
Zulu zu zul
"""


@cache
def _names() -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Code -> the language's name, and what is written by mistake -> the names that may be meant."""
    codes: dict[str, str] = {}
    mistakes: dict[str, tuple[str, ...]] = {}
    for line in _TABLE.strip().split("\n"):
        name = re.split(r" (?=[a-z]{2,3}\b)", line, maxsplit=1)[0]
        own, _, wrong = line.removeprefix(name).partition("!")
        for code in own.split():
            assert code not in codes, f"{code} is {codes[code]} and {name}"
            codes[code] = name
        for code in wrong.split():
            mistakes[code] = (*mistakes.get(code, ()), name)
    return codes, mistakes


def names() -> dict[str, str]:
    """Every code of the standards, and the language's name in English."""
    return dict(_names()[0])


def name_of(code: str) -> str:
    """The language's name in English for a code of any of the standards; an empty string for none."""
    return _names()[0].get(primary(code), "")


def meant(code: str, known: Iterable[str]) -> str:
    """Which of the ``known`` codes stands for the language that ``code`` does, or is written for; empty for none."""
    codes, mistakes = _names()
    known = list(known)
    language = primary(code)
    for names in ((codes[language],) if language in codes else (), mistakes.get(code.lower(), ())):
        for name in names:
            # of several varieties (zh-CN, zh-TW) the one that is written alike, else the first
            same = [other for other in known if codes.get(primary(other)) == name]
            if same:
                return min(same, key=lambda other: (primary(other) != language, len(other)))
    return ""


def proposed(code: str, known: Iterable[str]) -> str:
    """``"did you mean 'he' (Hebrew)?"``: the known code of the same language; an empty string where there is none.

    What is no language's code may be misspelt: then the one that looks alike.
    """
    known = list(known)
    found = meant(code, known)
    if found:
        return f"did you mean {found!r} ({name_of(found)})?"
    return "" if name_of(code) else nearest(code, known)


def primary(code: str) -> str:
    """The language in a code of BCP 47 (``zh-Hans-CN``), of POSIX (``zh_CN``) or of FLORES (``zho_Hans``)."""
    return re.split(r"[-_@.]", code.lower(), maxsplit=1)[0]
