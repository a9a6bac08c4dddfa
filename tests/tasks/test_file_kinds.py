"""Files that are not the text that they should be: named for what they are, by every reader, with what to do."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from rows import rows_of, source, spec

from xtrain.config import parse_override, read_toml
from xtrain.errors import Problem, UserError
from xtrain.file_kinds import foreign
from xtrain.files import read_json, read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers import READERS, read_files
from xtrain.tasks.spec import Source

TEXT = '{"text": "one two", "label": "a"}\n{"text": "Grüße", "label": "b"}\n'
HAN = "今天天气很好\n我们去山上\n" * 20
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def _zip() -> bytes:
    with zipfile.ZipFile(held := io.BytesIO(), "w") as archive:
        archive.writestr("train.jsonl", TEXT)
    return held.getvalue()


def _tar() -> bytes:
    with tarfile.open(fileobj=(held := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train.jsonl"))
    return held.getvalue()


KINDS = {
    "gzip": (gzip.compress(TEXT.encode()), "compressed with gzip", "gunzip -c train.jsonl > train.unpacked.jsonl"),
    "bzip2": (bz2.compress(TEXT.encode()), "compressed with bzip2", "bunzip2 -c train.jsonl"),
    "xz": (lzma.compress(TEXT.encode()), "compressed with xz", "xz -dc train.jsonl"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "compressed with zstd", "zstd -dc train.jsonl"),
    "zip": (_zip(), "a zip archive", "unzip -p train.jsonl"),
    "tar": (_tar(), "a tar archive", "tar -xf train.jsonl"),
    "parquet": (b"PAR1\x15\x04\x15\x10", "a parquet file", "hub ="),
    "pdf": (b"%PDF-1.7\n", "a PDF document", "pdftotext"),
    "pickle": (pickle.dumps([TEXT]), "a pickle of Python, which is never read", "JSON object a line"),
    "git lfs": (POINTER, "a pointer of Git LFS", 'git lfs pull --include "*train.jsonl"'),
    "html": (b"\n<!DOCTYPE html>\n<html lang=en><head>", "an HTML page", "download the file itself"),
    "html with a mark": (codecs.BOM_UTF8 + b"<HTML><body>", "an HTML page", "download the file itself"),
    **{
        f"{name}{' with a mark' if mark else ''}{' in Chinese' if text == HAN else ''}": (
            mark + text.encode(name),
            f"text in {name.removesuffix('LE').removesuffix('BE') if mark else name}",
            f"iconv -f {name.removesuffix('LE').removesuffix('BE') if mark else name} -t UTF-8",
        )
        for name, bom in (
            ("UTF-16LE", codecs.BOM_UTF16_LE),
            ("UTF-16BE", codecs.BOM_UTF16_BE),
            ("UTF-32LE", codecs.BOM_UTF32_LE),
            ("UTF-32BE", codecs.BOM_UTF32_BE),
        )
        for mark in (b"", bom)
        for text in (TEXT, HAN)
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, kind: str) -> None:
    data, what, todo = KINDS[kind]
    path = tmp_path / "train.jsonl"
    path.write_bytes(data)
    for read in (read_text, read_toml, read_json):
        with pytest.raises(UserError) as caught:
            read(path)
        (problem,) = caught.value.problems
        assert what in problem.what
        assert todo in problem.remedy
        assert "LATIN1" not in str(problem)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_it(tmp_path: Path, reader: str) -> None:
    for kind in ("gzip", "UTF-16LE", "UTF-16LE with a mark", "git lfs", "html"):
        data, what, _ = KINDS[kind]
        paths = [tmp_path / f"{n}.jsonl" for n in range(3 if reader == "bitext" else 1)]
        for path in paths:
            path.write_bytes(data)
        with pytest.raises(UserError, match=what) as caught:
            list(read_files(Source(files={"train": "x"}, reader=reader, columns={"text": "x"}), paths, ProblemList()))
        assert len(caught.value.problems) == 1, "one message for a file"


@pytest.mark.parametrize(
    "text",
    [
        TEXT, HAN, "", "\n", "a\0b\n", "one\0\0 two\0 three\n" * 20, "\0" * 50, "BZh is a word\n", "PAR1 and PK\n",
        "<hr>\n", "version https of a page\n", "\x04\x05 \n", "x\0 \0y",
    ],
)  # fmt: skip
def test_utf8_is_utf8_whatever_it_holds(tmp_path: Path, text: str) -> None:
    assert foreign(tmp_path / "x", text.encode()) is None
    for mark in ("", "\ufeff"):
        (tmp_path / "x").write_text(mark + text, encoding="utf-8", newline="")
        assert read_text(tmp_path / "x") == text


def test_real_latin_1_still_gets_its_advice(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.jsonl:2: byte 0xfc is not UTF-8[^$]*iconv -f LATIN1"):
        read_text(path)
    path.write_bytes(b"one\nhalf \xed\xa0\xbd here\n")
    with pytest.raises(UserError, match=r"train\.jsonl:2: half of a surrogate pair"):
        read_text(path)


def test_a_study_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(codecs.BOM_UTF8 + b'name = "x"\n')
    assert read_toml(path) == {"name": "x"}
    path.write_bytes(b'name = "x"\nother = "\\ud800"\n')
    with pytest.raises(UserError, match="line 2"):
        read_toml(path)


def test_what_no_terminal_can_show_is_escaped() -> None:
    assert str(Problem("a\ud83d", "b\udfff", remedy="ä")) == "a\\ud83d: b\\udfff\n  to do:   ä"
    with pytest.raises(UserError, match="is not UTF-8"):
        parse_override("name=\udcff")


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ({"text": "half \ud83d", "label": "a"}, "text_a"),
        ({"text": "x", "label": "\udfff"}, "label"),
        ({"text": "x", "label": "a", "nr": "7\ud800"}, "id"),
    ],
)
def test_half_of_a_surrogate_pair_is_told_with_its_line(tmp_path: Path, text: dict[str, str], column: str) -> None:
    good = {"text": "whole 😀", "label": "a", "nr": "1", "a\ud800": "a key that nobody asks for"}
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps({'nr': '2', **text})}\n")
    columns = {"text_a": "text", "label": "label", "id": "nr"}
    for more in ({}, {"hash_split": {"dev": 0.5}}, {"label_map": {"b": "a"}}):
        mine = spec(sources=[source(columns=columns, **more)])
        with pytest.raises(UserError) as caught:
            rows_of(mine, tmp_path)
        assert [problem.where for problem in caught.value.problems] == [f"{tmp_path}/train.jsonl:2: {column}"]
        str(caught.value).encode()
    with pytest.raises(UserError) as caught:  # the columns there are named, whatever they are called
        rows_of(spec(sources=[source(columns={**columns, "text_b": "b"})]), tmp_path)
    assert "a\\ud800" in str(caught.value)


@pytest.mark.parametrize("format_", ["span_qa", "tagging", "multiple_choice", "answer_retrieval"])
def test_halves_in_lists_and_contexts(tmp_path: Path, format_: str) -> None:
    values = {
        "span_qa": {"question": "q", "context": "c \ud800", "answers": ["c\ud801"], "answer_starts": [0]},
        "tagging": {"tokens": ["a", "b\ud800"], "tags": ["O", "\ud801"]},
        "multiple_choice": {"context": "c", "choices": ["x\ud800", "y"], "label": 0},
        "answer_retrieval": {"query": "q\ud800", "candidate": "\udfff"},
    }[format_]
    (tmp_path / "train.jsonl").write_text(json.dumps(values) + "\n")
    labels = {"labels": ["O", "B"]} if format_ == "tagging" else {}
    metric = {"span_qa": "f1", "tagging": "f1", "answer_retrieval": "map@20"}.get(format_, "accuracy")
    mine = spec(format=format_, metric=metric, sources=[source(columns={key: key for key in values})], **labels)
    with pytest.raises(UserError, match=r"train\.jsonl:1: .*half of a surrogate pair") as caught:
        rows_of(mine, tmp_path)
    assert len(caught.value.problems) == (1 if format_ == "multiple_choice" else 2)
