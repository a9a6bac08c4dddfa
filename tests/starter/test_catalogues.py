"""Reading gettext catalogues: contexts, plural forms, fuzzy and obsolete entries, continued strings."""

from __future__ import annotations

import pytest

from xtrain.errors import UserError
from xtrain.starter.catalogues import messages

HEADER = r"""
# A comment.
#, fuzzy
msgid ""
msgstr ""
"Project-Id-Version: made up\n"
"Plural-Forms: nplurals=3; plural=n==0 ? 0 : n==1 ? 1 : 2;\n"
"""


def read(body: str) -> dict[tuple[str, str], str]:
    return messages(HEADER + body, "made.po")


def test_plain_and_continued_strings() -> None:
    found = read('msgid "one"\nmsgstr "eins"\n\nmsgid ""\n"a "\n"b"\nmsgstr ""\n"c \\"d\\"\\n"\n"e \\\\ ü"\n')
    assert found == {("", "one"): "eins", ("", "a b"): 'c "d"\ne \\ ü'}


def test_entries_need_no_blank_line_between_them() -> None:
    assert read('msgid "a"\nmsgstr "x"\nmsgid "b"\nmsgstr "y"\n# c\nmsgid "c"\nmsgstr "z"') == {
        ("", "a"): "x",
        ("", "b"): "y",
        ("", "c"): "z",
    }


def test_context_makes_two_messages() -> None:
    found = read('msgctxt "month"\nmsgid "May"\nmsgstr "Mai"\nmsgctxt "verb"\nmsgid "May"\nmsgstr "darf"\n')
    assert found == {("month", "May"): "Mai", ("verb", "May"): "darf"}


def test_of_plural_forms_the_one_for_one_thing_is_taken() -> None:
    entry = 'msgid "%d day"\nmsgid_plural "%d days"\nmsgstr[0] "none"\nmsgstr[1] "one"\nmsgstr[2] "more"\n'
    assert read(entry) == {("", "%d day"): "one"}
    assert messages(entry, "without a header") == {("", "%d day"): "none"}


def test_fuzzy_untranslated_and_obsolete() -> None:
    found = read(
        '#, fuzzy, python-format\n#| msgid "old"\nmsgid "a"\nmsgstr "guess"\n\n'
        '#, python-format\nmsgid "b"\nmsgstr ""\n\n#~ msgid "c"\n#~ msgstr "gone"\n'
    )
    assert found == {("", "a"): "", ("", "b"): ""}


@pytest.mark.parametrize("line", ['"nothing before it"', "msgid unquoted", 'msgid "open', 'message "x"'])
def test_what_is_no_catalogue_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(UserError, match=r"made\.po:2: "):
        messages(f"\n{line}\n", "made.po")
