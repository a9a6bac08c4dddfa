"""Reading files: every reader, and every way a file can be wrong, with file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rows import rows_of, source, spec, write, write_jsonl

from xtrain.errors import UserError


def text_label(file: str, **keys: Any) -> Any:
    """Texts in column 0 and labels in column 1 of ``file``, or whatever ``keys`` say."""
    columns = keys.pop("columns", {"text_a": 0, "label": 1})
    return spec(sources=[source(files={"train": file}, columns=columns, **keys)])


def error_of(task: Any, root: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        rows_of(task, root)
    return caught.value


def texts(task: Any, root: Path) -> list[tuple[str, str, str]]:
    return [(Path(row.where).name, row.values["text_a"], row.values["label"]) for row in rows_of(task, root)]


def test_jsonl_with_blank_lines_odd_line_breaks_and_a_byte_order_mark(tmp_path: Path) -> None:
    write(
        tmp_path / "train.jsonl",
        '\ufeff{"text": "one\u2028more", "label": "a"}\r\n\n{"text": "two", "label": 1, "x": {"y": 2}}',
    )
    task = spec(sources=[source(label_map={"1": "b"})])
    assert texts(task, tmp_path) == [("train.jsonl:1", "one\u2028more", "a"), ("train.jsonl:3", "two", "b")]


def test_nested_columns_and_lists_of_columns(tmp_path: Path) -> None:
    columns = {"context": "q.text", "choices": ["q.x", "y"], "label": "label"}
    task = spec(format="multiple_choice", sources=[source(columns=columns)])
    write_jsonl(tmp_path / "train.jsonl", [{"q": {"text": "why", "x": "so"}, "y": "thus", "label": 0}])
    assert rows_of(task, tmp_path)[0].values == {"context": "why", "choices": ["so", "thus"], "label": 0}


def test_tsv_without_header_is_taken_literally(tmp_path: Path) -> None:
    write(tmp_path / "x.tsv", '"a quote\ta\n\nplain\tb\r\n')
    assert texts(text_label("x.tsv"), tmp_path) == [("x.tsv:1", '"a quote', "a"), ("x.tsv:3", "plain", "b")]


def test_tsv_with_quotes_as_the_csv_module_writes_them(tmp_path: Path) -> None:
    write(tmp_path / "x.tsv", '"say ""so""\tnow\nplease"\ta\r\nin "the" middle\tb\r\n')
    found = texts(text_label("x.tsv", quoted=True), tmp_path)
    assert found == [("x.tsv:1", 'say "so"\tnow\nplease', "a"), ("x.tsv:3", 'in "the" middle', "b")]


def test_csv_with_header(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", 'n,text,label\n1,"one, two",a\n2,"three\nfour",b\n3,five,a\n')
    found = texts(text_label("x.csv", columns={"text_a": "text", "label": "label"}), tmp_path)
    assert found == [("x.csv:2", "one, two", "a"), ("x.csv:3", "three\nfour", "b"), ("x.csv:5", "five", "a")]


def test_quotation_marks_that_do_not_match(tmp_path: Path) -> None:
    write(tmp_path / "x.tsv", 'fine\ta\n"not" fine\ta\n')
    message = str(error_of(text_label("x.tsv", quoted=True), tmp_path))
    assert "x.tsv:2" in message
    assert "quoted = false" in message


def test_several_files_are_read_in_sequence(tmp_path: Path) -> None:
    write(tmp_path / "1.tsv", "one\ta\n")
    write(tmp_path / "2.tsv", "two\tb\n")
    task = spec(sources=[source(files={"train": ["1.tsv", "2.tsv"]}, columns={"text_a": 0, "label": 1})])
    assert [row.id for row in rows_of(task, tmp_path)] == ["0", "1"]
    assert [name for name, _, _ in texts(task, tmp_path)] == ["1.tsv:1", "2.tsv:1"]


def test_each_file_is_read_as_its_ending_says(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "1.jsonl", [{"text": "one", "label": "a"}])
    write(tmp_path / "2.csv", "label,text\nb,two\n")
    columns = {"text_a": "text", "label": "label"}
    task = spec(sources=[source(files={"train": ["1.jsonl", "2.csv"]}, columns=columns)])
    assert texts(task, tmp_path) == [("1.jsonl:1", "one", "a"), ("2.csv:2", "two", "b")]


def parallel() -> Any:
    files = {"test": ["x.{lang}", "x.eng"]}
    columns = {"source": 0, "target": 1}
    return spec(
        format="sentence_retrieval",
        languages=["de", "fr"],
        language_codes={"de": "deu"},
        sources=[{"files": files, "reader": "lines", "columns": columns}],
    )


def test_parallel_files(tmp_path: Path) -> None:
    write(tmp_path / "x.deu", "eins\nzwei\r\n")
    write(tmp_path / "x.eng", "one\ntwo")
    rows = rows_of(parallel(), tmp_path, "test", "de")
    assert [row.values for row in rows] == [
        {"source": "eins", "target": "one"},
        {"source": "zwei", "target": "two"},
    ]
    assert rows[1].where.endswith("x.deu:2")


def test_parallel_files_of_different_length(tmp_path: Path) -> None:
    write(tmp_path / "x.deu", "eins\nzwei\n")
    write(tmp_path / "x.eng", "one\n")
    with pytest.raises(UserError, match=r"x\.deu has 2, x\.eng has 1"):
        rows_of(parallel(), tmp_path, "test", "de")


def test_a_parallel_file_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "x.deu", "eins\n")
    with pytest.raises(UserError, match=r"x\.eng: no such file"):
        rows_of(parallel(), tmp_path, "test", "de")


def test_a_missing_column_is_said_once_with_the_nearest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"txt": "one", "label": "a"}] * 50)
    error = error_of(spec(), tmp_path)
    assert len(error.problems) == 1
    message = str(error)
    for part in (
        "train.jsonl:1",
        "no column 'text' for text_a",
        "txt, label",
        "did you mean 'txt'",
        "text_a = ...",
    ):
        assert part in message


def test_a_missing_column_in_a_header_and_a_place_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "text,lable\none,a\n")
    message = str(error_of(text_label("x.csv", columns={"text_a": "text", "label": "label"}), tmp_path))
    assert "did you mean 'lable'" in message
    write(tmp_path / "x.tsv", "one\ttwo\n")
    assert "no column 2" in str(error_of(text_label("x.tsv", columns={"text_a": 0, "label": 2}), tmp_path))


def test_a_column_missing_in_one_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": "x", "label": "a"}, {"text": "y"}, {"label": "b"}])
    error = error_of(spec(), tmp_path)
    assert [problem.where.rsplit(":", 1)[1] for problem in error.problems] == ["2", "3"]


def test_a_ragged_line(tmp_path: Path) -> None:
    write(tmp_path / "x.tsv", "one\ta\ntwo\nthree\tb\tc\n")
    error = error_of(text_label("x.tsv"), tmp_path)
    assert "x.tsv:2: has 1 column, the first line has 2" in str(error)
    assert "x.tsv:3: has 3 columns" in str(error)


def test_broken_json(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "label"\n[1, 2]\n')
    message = str(error_of(spec(), tmp_path))
    assert "train.jsonl:2: not JSON" in message
    assert "train.jsonl:3" in message
    assert "not a JSON object" in message


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    write(tmp_path / "train.jsonl", content)
    assert "train.jsonl: has no rows" in str(error_of(spec(), tmp_path))
    write(tmp_path / "x.tsv", content)
    assert "x.tsv: has no rows" in str(error_of(text_label("x.tsv"), tmp_path))


def test_a_header_without_rows(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "text,label\n")
    named = text_label("x.csv", columns={"text_a": "text", "label": "label"})
    assert "has no rows" in str(error_of(named, tmp_path))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes('{"text": "x", "label": "a"}\n{"text": "naïve"}'.encode("latin-1"))
    message = str(error_of(spec(), tmp_path))
    assert "train.jsonl:2" in message
    assert "iconv" in message


def test_duplicate_ids(tmp_path: Path) -> None:
    columns = {"text_a": "text", "label": "label", "id": "n"}
    write_jsonl(tmp_path / "train.jsonl", [{"text": "x", "label": "a", "n": n} for n in (1, 2, 1)])
    message = str(error_of(spec(sources=[source(columns=columns)]), tmp_path))
    assert "train.jsonl:3: id: '1' was there already" in message
    assert "train.jsonl:1" in message


def test_not_more_than_twenty_problems_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "{\n" * 500)
    error = error_of(spec(), tmp_path)
    assert len(error.problems) == 20
    assert "only the first 20" in str(error)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.tsv", "text,label\none two,a\n", ["fields stand between commas, not tabs", 'reader = "csv"']),
        ("x.tsv", "text;label\none, two;a\n", ["fields stand between semicolons, not tabs", 'separator = ";"']),
        ("x.csv", "text\tlabel\none two\ta\n", ["fields stand between tabs, not commas", 'reader = "tsv"']),
        ("x.csv", "text;label\none;a\n", ["fields stand between semicolons, not commas", 'separator = ";"']),
        ("x.csv", "text|label\none|a\n", ["fields stand between bars, not commas", 'separator = "|"']),
    ],
)
def test_other_separators_are_named_once(tmp_path: Path, name: str, text: str, said: list[str]) -> None:
    for columns, content in (
        ({"text_a": "text", "label": "label"}, text * 30),
        ({"text_a": 0, "label": 1}, text.partition("\n")[2] * 30),
    ):
        write(tmp_path / name, content)
        error = error_of(text_label(name, columns=columns), tmp_path)
        assert len(error.problems) == 1
        if columns["text_a"] == "text":
            assert all(part in str(error) for part in said), str(error)
    remedy = said[1].split(" = ")
    write(tmp_path / name, text)
    mended = {remedy[0]: remedy[1].strip('"')}
    rows = texts(text_label(name, columns={"text_a": "text", "label": "label"}, **mended), tmp_path)
    assert [row[2] for row in rows] == ["a"]


def test_one_text_a_line_may_hold_any_separator(tmp_path: Path) -> None:
    write(tmp_path / "x.tsv", "one, two; three\n|\n")
    entry = source(files={"train": "x.tsv"}, columns={"text": 0})
    assert [row.values["text"] for row in rows_of(spec(format="mlm", sources=[entry]), tmp_path)] == [
        "one, two; three",
        "|",
    ]


@pytest.mark.parametrize("reader", ["tsv", "lines"])
def test_rows_by_a_column_that_has_a_place(tmp_path: Path, reader: str) -> None:
    if reader == "lines":
        files: Any = {"train": ["a", "b"]}
        write(tmp_path / "a", "one\ntwo\n")
        write(tmp_path / "b", "a\nb\n")
    else:
        files = {"train": "x.tsv"}
        write(tmp_path / "x.tsv", "one\ta\ntwo\tb\n")
    entry = source(files=files, reader=reader, columns={"text_a": 0, "label": 1}, where={"1": "b"})
    assert [row.values["text_a"] for row in rows_of(spec(sources=[entry]), tmp_path)] == ["two"]
    entry["where"] = {"2": "b"}
    assert "there is no column '2'" in str(error_of(spec(sources=[entry]), tmp_path))


def test_one_json_value_over_several_lines_is_said_once(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", json.dumps([{"text": "x", "label": "a"}] * 30, indent=1))
    error = error_of(spec(), tmp_path)
    assert len(error.problems) == 1
    assert "is one JSON list over several lines" in str(error)
    assert "jq -c '.[]' train.jsonl" in str(error)


def test_a_separator_is_one_character_and_for_some_readers() -> None:
    for keys, said in (
        ({"separator": "::"}, "'::' is not allowed"),
        ({"separator": ";"}, "is not for the reader jsonl"),
        ({"separator": '"', "reader": "csv"}, "one character"),
    ):
        with pytest.raises(UserError, match=said):
            spec(sources=[source(**keys)])
