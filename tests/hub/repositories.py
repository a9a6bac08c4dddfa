"""Made-up data sets in the schema and the layout of real ones on the hub: one or more for each format."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from server import publish
from tiny import make_tiny_model, sentences

Rows = Sequence[Mapping[str, Any]]
BRANCH = "refs/convert/parquet"
TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
ANSWERS = [("text", "sequence: string"), ("answer_start", "sequence: int32")]
STRUCT = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})


def parquet(rows: Rows, schema: Mapping[str, pa.DataType]) -> bytes:
    """The bytes of a parquet file, without what `datasets` would add to its schema."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(dict(schema))), buffer)
    return buffer.getvalue()


def card(configs: Mapping[str, Mapping[str, str]], infos: str = "") -> bytes:
    """A README.md that names the files of every configuration's splits, as those of the hub do."""
    lines = ["---", "license: cc-by-4.0", *([infos.rstrip()] if infos else []), "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, path in splits.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    return "\n".join([*lines, "---", "# Made up", ""]).encode()


def nli_rows(count: int, seed: int) -> list[dict[str, Any]]:
    texts = sentences(2 * count, seed=seed)
    return [{"premise": texts[n], "hypothesis": texts[count + n], "label": n % 3} for n in range(count)]


def xnli(root: Path, seed: int = 0) -> str:
    """Configurations of which only one is wanted; two files for a split; ClassLabels on the card."""
    schema = {"premise": pa.string(), "hypothesis": pa.string(), "label": pa.int64()}
    files: dict[str, bytes] = {}
    for n, language in enumerate(("ar", "de", "en")):
        rows = nli_rows(6, seed + n)
        files[f"{language}/test-00000-of-00002.parquet"] = parquet(rows[:4], schema)
        files[f"{language}/test-00001-of-00002.parquet"] = parquet(rows[4:], schema)
        files[f"{language}/validation-00000-of-00001.parquet"] = parquet(rows[:2], schema)
    infos = "dataset_info:\n" + "".join(
        f"- config_name: {language}\n  features:\n  - name: premise\n    dtype: string\n"
        "  - name: hypothesis\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': entailment\n          '1': neutral\n          '2': contradiction\n"
        "  splits:\n  - name: test\n    num_bytes: 1\n    num_examples: 6\n"
        "  - name: validation\n    num_bytes: 1\n    num_examples: 2\n  download_size: 1\n  dataset_size: 1\n"
        for language in ("ar", "de", "en")
    )
    splits = {code: {"test": f"{code}/test-*", "validation": f"{code}/validation-*"} for code in ("ar", "de", "en")}
    return publish(root, "datasets", "facebook/xnli", {"README.md": card(splits, infos), **files})


def commonsense_qa(root: Path) -> str:
    choices = pa.struct({"label": pa.list_(pa.string()), "text": pa.list_(pa.string())})
    schema = {"id": pa.string(), "question": pa.string(), "question_concept": pa.string()}
    texts = sentences(4)
    rows = [
        {
            "id": f"q{n}",
            "question": text,
            "question_concept": "x",
            "choices": {"label": list("ABCDE"), "text": [f"c{n}{k}" for k in range(5)]},
            "answerKey": "ABCDE"[n],
        }
        for n, text in enumerate(texts)
    ]
    data = parquet(rows, {**schema, "choices": choices, "answerKey": pa.string()})
    files = {"data/train-00000-of-00001.parquet": data, "data/validation-00000-of-00001.parquet": data}
    splits = {"default": {"train": "data/train-*", "validation": "data/validation-*"}}
    return publish(root, "datasets", "tau/commonsense_qa", {"README.md": card(splits), **files})


def social_i_qa(root: Path) -> str:
    """A loading script on the main branch, and the hub's copy as parquet on a branch of its own."""
    names = ("context", "question", "answerA", "answerB", "answerC", "label")
    rows = [dict(zip(names, [*sentences(5, seed=n), str(n + 1)], strict=True)) for n in range(3)]
    publish(
        root, "datasets", "allenai/social_i_qa", {"README.md": b"# Card\n", "social_i_qa.py": b"raise SystemExit\n"}
    )
    data = parquet(rows, dict.fromkeys(names, pa.string()))
    files = {"default/train/0000.parquet": data, "default/train/0001.parquet": data}
    files["default/validation/0000.parquet"] = parquet(rows[:1], dict.fromkeys(names, pa.string()))
    return publish(root, "datasets", "allenai/social_i_qa", files, BRANCH)


def qa_rows(count: int) -> list[dict[str, Any]]:
    texts = sentences(count, shortest=6)
    return [
        {
            "id": f"q{n}",
            "title": "t",
            "context": text,
            "question": f"{text.split()[0]}?",
            "answers": {"text": [text.split()[2]], "answer_start": [text.index(text.split()[2])]},
        }
        for n, text in enumerate(texts)
    ]


def xtreme(root: Path) -> str:
    """The repository of many tasks: tagging, span QA, sentence retrieval."""
    tags = [{"tokens": ["a", "b", "c"], "ner_tags": [0, 1, 2], "langs": ["de"] * 3}] * 4
    ids = pa.list_(pa.int64())
    texts = pa.list_(pa.string())
    text = {name: pa.string() for name in ("source_sentence", "target_sentence", "source_lang", "target_lang")}
    pairs = [
        {"source_sentence": f"{a}\n", "target_sentence": b, "source_lang": "deu", "target_lang": "eng"}
        for a, b in zip(sentences(5), sentences(5, "cyrillic"), strict=True)
    ]
    qa = {"id": pa.string(), "context": pa.string(), "question": pa.string(), "answers": STRUCT}
    files = {
        "PAN-X.de/train-00000-of-00001.parquet": parquet(tags, {"tokens": texts, "ner_tags": ids, "langs": texts}),
        "XQuAD.de/validation-00000-of-00001.parquet": parquet(
            [{key: row[key] for key in qa} for row in qa_rows(3)], qa
        ),
        "tatoeba.deu/validation-00000-of-00001.parquet": parquet(pairs, text),
    }
    names = "".join(f"            '{n}': {tag}\n" for n, tag in enumerate(TAGS))
    infos = (
        "dataset_info:\n- config_name: PAN-X.de\n  features:\n  - name: tokens\n    sequence: string\n"
        f"  - name: ner_tags\n    sequence:\n      class_label:\n        names:\n{names}"
        "  - name: langs\n    sequence: string\n  splits:\n  - name: train\n    num_bytes: 1\n    num_examples: 4\n"
        "- config_name: XQuAD.de\n  features:\n  - name: id\n    dtype: string\n  - name: context\n    dtype: string\n"
        "  - name: question\n    dtype: string\n  - name: answers\n    sequence:\n    - name: answer_start\n"
        "      dtype: int32\n    - name: text\n      dtype: string\n"
        "  splits:\n  - name: validation\n    num_bytes: 1\n    num_examples: 3\n"
    )
    splits = {
        "PAN-X.de": {"train": "PAN-X.de/train-*"},
        "XQuAD.de": {"validation": "XQuAD.de/validation-*"},
        "tatoeba.deu": {"validation": "tatoeba.deu/validation-*"},
    }
    return publish(root, "datasets", "google/xtreme", {"README.md": card(splits, infos), **files})


def others(root: Path) -> None:
    """SQuAD, XQuAD-R, BUCC and a Wikipedia, each in its own layout."""
    qa = {name: pa.string() for name in ("id", "title", "context", "question")} | {"answers": STRUCT}
    data = parquet(qa_rows(5), qa)
    files = {"plain_text/train-00000-of-00001.parquet": data, "plain_text/validation-00000-of-00001.parquet": data}
    splits = {"plain_text": {"train": "plain_text/train-*", "validation": "plain_text/validation-*"}}
    publish(root, "datasets", "rajpurkar/squad", {"README.md": card(splits), **files})

    del qa["title"]
    rows = [{key: row[key] for key in qa} for row in qa_rows(4)]
    splits = {code: {"validation": f"{code}/validation-*"} for code in ("de", "th")}
    files = {f"{code}/validation-00000-of-00001.parquet": parquet(rows, qa) for code in splits}
    name = "google-research-datasets/xquad_r"
    publish(root, "datasets", name, {"README.md": card(splits), **files})

    names = ("sentence1", "sentence2", "lang")
    lines = [
        dict(zip(names, [a, b, "zh-en"], strict=True)) for a, b in zip(sentences(4, "han"), sentences(4), strict=True)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    files = {"README.md": card({"deu-eng": {"test": "deu-eng/test.jsonl"}}), "deu-eng/test.jsonl": text}
    publish(root, "datasets", "mteb/tatoeba-bitext-mining", files)
    splits = {"zh-en": {"test": "zh-en/test.jsonl"}}
    publish(root, "datasets", "mteb/bucc-bitext-mining", {"README.md": card(splits), "zh-en/test.jsonl": text})

    schema = {name: pa.string() for name in ("id", "url", "title", "text")}
    articles = [dict(zip(schema, [str(n), "u", "t", text], strict=True)) for n, text in enumerate(sentences(6))]
    splits = {f"20231101.{code}": {"train": f"20231101.{code}/train-*"} for code in ("de", "sw")}
    files = {
        f"20231101.{code}/train-0000{n}-of-00002.parquet": parquet(articles[3 * n : 3 * n + 3], schema)
        for code in ("de", "sw")
        for n in (0, 1)
    }
    publish(root, "datasets", "wikimedia/wikipedia", {"README.md": card(splits), **files})

    splits = {f"xquad.{code}": {"validation": f"xquad.{code}/validation-*"} for code in ("de", "ro")}
    files = {f"{config}/validation-00000-of-00001.parquet": parquet(rows, qa) for config in splits}
    publish(root, "datasets", "google/xquad", {"README.md": card(splits), **files})

    tags = [{"tokens": ["a", "b"], "ner_tags": [0, 5], "langs": ["de"] * 2, "spans": ["LOC: b"]}] * 2
    texts = pa.list_(pa.string())
    schema = {"tokens": texts, "ner_tags": pa.list_(pa.int64()), "langs": texts, "spans": texts}
    splits = {"de": {"train": "de/train-*"}}
    files = {"de/train-00000-of-00001.parquet": parquet(tags, schema)}
    publish(root, "datasets", "unimelb-nlp/wikiann", {"README.md": card(splits), **files})

    # the whole pool in one row
    pool = [{"sentence1": sentences(4, "han"), "sentence2": sentences(3), "gold": [[1, 3], [4, 2]]}]
    schema = {"sentence1": texts, "sentence2": texts, "gold": pa.list_(pa.list_(pa.int64()))}
    files = {"zh-en/test-00000-of-00001.parquet": parquet(pool, schema)}
    publish(root, "datasets", "mteb/BUCC", {"README.md": card({"zh-en": {"test": "zh-en/test-*"}}), **files})

    entities = [{"entity_id": f"Q{n}", "description": text} for n, text in enumerate(sentences(5))]
    data = parquet(entities, {"entity_id": pa.string(), "description": pa.string()})
    publish(root, "datasets", "izhx/mewsli-x", {"candidate_entities/test/0000.parquet": data}, BRANCH)

    # no card: splits by the names of files
    lines = [{"text_a": text, "label": "x"} for text in sentences(3)]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    publish(root, "datasets", "my-group/opinions", {"train.jsonl": text, "test.jsonl": text[: text.index(b"\n") + 1]})


def model(root: Path, folder: Path, seed: int = 0, weights: int = 0) -> str:
    """A tiny XLM-R as the hub has it, beside files that nobody wants; ``weights`` further ones make it long."""
    from numpy import zeros
    from safetensors.numpy import load_file, save

    made = make_tiny_model(folder, prefix="roberta.", seed=seed)
    tensors = load_file(made / "model.safetensors")
    if weights:
        tensors["lm_head.unused"] = zeros(weights, dtype="float32")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    files["model.safetensors"] = save(tensors, {"format": "pt"})
    files |= {"pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"x", "README.md": b"# Card\n"}
    return publish(root, "models", "FacebookAI/xlm-roberta-base", files)


def tower(root: Path, folder: Path, repository: str, *, tokenizer: bool = True, safe: bool = False) -> None:
    """A tiny AltCLIP in ``folder`` and as the hub has it: a pickle, ``safe`` tensors too, and weights for others."""
    from towers import altclip

    model = altclip()
    files = {path.name: path.read_bytes() for path in model.write(folder, tokenizer=tokenizer, safe=safe).iterdir()}
    files |= {"pytorch_model.bin": b"not read"} if safe else {}
    files |= {"tf_model.h5": b"x", "README.md": b"# Card\n", "onnx/model.safetensors": b"x"}
    publish(root, "models", repository, files)


def everything(root: Path, folder: Path) -> None:
    xnli(root)
    commonsense_qa(root)
    social_i_qa(root)
    xtreme(root)
    others(root)
    model(root, folder, weights=6_000_000)
