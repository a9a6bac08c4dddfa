"""Hub sources with the real clients, in processes of their own, against a loopback server and without one."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import repositories
from server import Hub

TESTS = Path(__file__).parents[1]
SECRET = "hf_" + "Secret0123456789" * 2
ID = {"id": "id"}
QA = {**ID, "question": "question", "answers": "answers.text", "starts": "answers.answer_start"}
TASKS = [  # of the catalogue, read from the sources that it names
    ("xnli", "test", "de"),
    ("xnli", "dev", "de"),
    ("commonsense_qa", "train", "en"),
    ("socialiqa", "train", "en"),
    ("panx", "train", "de"),
    ("squad", "train", "en"),
    ("xquad", "test", "de"),
    ("tatoeba", "test", "de"),
    ("bucc2018_hub", "test", "zh"),
    ("lareqa", "test", "de"),
    ("mewslix", "index", "all"),
    ("mlm", "train", "sw"),
]
SOURCES: dict[str, dict[str, Any]] = {
    "tagging": {
        "hub": "google/xtreme",
        "config": "PAN-X.{lang}",
        "splits": {"train": "train"},
        "columns": {"tokens": "tokens", "label": "ner_tags"},
    },
    "sentence retrieval": {
        "hub": "google/xtreme",
        "config": "tatoeba.{lang}",
        "splits": {"train": "validation"},
        "language_codes": {"de": "deu"},
        "columns": {"source": "source_sentence", "target": "target_sentence"},
    },
    "span QA": {"hub": "google/xtreme", "config": "XQuAD.{lang}", "splits": {"train": "validation"}, "columns": QA},
    "SQuAD": {"hub": "rajpurkar/squad", "config": "plain_text", "splits": {"train": "train+validation"}, "columns": QA},
    "bitext mining": {
        "hub": "mteb/bucc-bitext-mining",
        "config": "{lang}-en",
        "splits": {"train": "test"},
        "language_codes": {"de": "zh"},
        "columns": {"source": "sentence1", "target": "sentence2"},
    },
    "answer retrieval": {
        "hub": "google-research-datasets/xquad_r",
        "config": "{lang}",
        "splits": {"train": "validation"},
        "columns": QA,
    },
    "MLM": {
        "hub": "wikimedia/wikipedia",
        "config": "20231101.{lang}",
        "splits": {"train": "train"},
        "language_codes": {"de": "sw"},
        "columns": {"text": "text"},
    },
    "no card": {"hub": "my-group/opinions", "splits": {"train": "train"}, "columns": {"text": "text_a"}},
}
ROWS = {
    "tagging": 4,
    "sentence retrieval": 5,
    "span QA": 3,
    "SQuAD": 10,
    "bitext mining": 4,
    "answer retrieval": 4,
    "MLM": 6,
    "no card": 3,
}
BASE = "FacebookAI/xlm-roberta-base"
_NUMBERS = itertools.count()


class Client:
    """A process with a cache of its own; ``with Client(...) as client: client("rows", task=...)``."""

    def __init__(self, url: str, home: Path, *options: str, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        path = os.pathsep.join([str(TESTS.parent), str(TESTS / "hub")])
        self.errors = home.with_suffix(f".{next(_NUMBERS)}.stderr")
        self._stream = self.errors.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "hub" / "client.py"), *options],
            env={**kept, **own, **no_proxy, "PYTHONPATH": path, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stream,
            text=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._stream.close()

    def __call__(self, request: str, **given: Any) -> Any:
        answer = self.answer(request, **given)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def refused(self, request: str, **given: Any) -> str:
        """The message of the UserError."""
        error: str = self.answer(request, **given)["error"]
        assert SECRET not in error
        return error

    def answer(self, request: str, **given: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([request, given]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.errors.read_text()[-3000:]
        found: dict[str, Any] = json.loads(line)
        return found


def data(client: Client) -> dict[str, Any]:
    """All data sets, each with what identifies it."""
    found: dict[str, Any] = {}
    for task, split, language in TASKS:
        given = {"task": task, "split": split, "language": language}
        found[f"{task} {split}"] = [client("rows", **given), client("mark", **given)]
    for name, source in SOURCES.items():
        given = {"source": source, "split": "train", "language": "de"}
        found[name] = [client("records", **given), client("fingerprint", **given)]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    repositories.everything(folder / "repositories", folder / "model")
    return folder / "repositories"


@pytest.fixture(scope="module")
def hub(root: Path) -> Iterator[Hub]:
    with Hub(root) as server:
        yield server


@pytest.fixture(scope="module")
def process(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(hub.url, tmp_path_factory.mktemp("home") / "home") as client:
        yield client


@pytest.fixture
def client(process: Client) -> Client:
    """A process that has asked the hub nothing yet; to start one for each test takes seconds."""
    process("environment", HF_HUB_OFFLINE="0", HF_TOKEN="")
    process("forget")
    return process


def test_first_use_and_second_use_without_network(root: Path, tmp_path: Path) -> None:
    """Every format and a base, with one download cut off; then offline, and with the server simply gone.

    (One test, so that pytest's workers do not each make the first use.)
    """
    home, server = tmp_path / "home", Hub(root)
    with (
        Client(server.url, home, "model") as first,
        Client(server.url, home, "model", HF_HUB_OFFLINE="1") as offline,
        Client(server.url, home) as alone,
    ):
        with server:
            server.cuts["model.safetensors"] = 15_000_000
            found, base = data(first), first("base", name=BASE)
            check_rows(found)
            check_base(base, server, (root / "models" / BASE / "refs" / "main").read_text())
            check_downloads(server)
            error = first.refused("base", name="FacebookAI/xlm-roberta-bass")
            assert "nor a model on the hub" in error
            assert f"did you mean {BASE!r}" in error
            assert "no revision 'v9'" in first.refused("base", name=BASE, revision="v9")
            check_moving_base(first, root, tmp_path / "model", base["mark"])

        assert data(offline) == found
        assert offline("base", name=BASE) == base
        error = offline.refused("base", name="FacebookAI/xlm-roberta-large")
        assert "not in the local hub cache" in error
        assert "HF_HUB_OFFLINE is set" in error
        assert "is used" not in offline.errors.read_text()

        assert data(alone) == found
        other = {**SOURCES["MLM"], "language_codes": {}}
        error = alone.refused("records", source=other, split="train", language="de")
        assert "20231101.de/train-00000-of-00002.parquet: not in the local hub cache" in error
        assert "of main is in the local cache and is used" in alone.errors.read_text()

        first("forget")
        assert first("base", name=BASE) == base
        assert f"hub: {BASE} cannot be asked" in first.errors.read_text()
        assert "cannot be reached (" in first.refused("base", name="FacebookAI/xlm-roberta-large")


def check_moving_base(client: Client, root: Path, folder: Path, old: str) -> None:
    """A branch that moved brings other weights under another name; the commit that it left stays."""
    moved = repositories.model(root, folder, seed=5)
    client("forget")
    assert client("base", name=BASE)["mark"] == moved != old
    assert client("base", name=BASE, revision=old)["mark"] == old
    (root / "models" / BASE / "refs" / "main").write_text(old)
    client("forget")
    assert client("base", name=BASE)["mark"] == old


def check_rows(found: dict[str, Any]) -> None:
    expected = repositories.nli_rows(6, 1)
    words = ("entailment", "neutral", "contradiction")
    rows, _ = found["xnli test"]
    assert [row["text_a"] for row in rows] == [row["premise"] for row in expected]
    assert [row["label"] for row in rows] == [words[row["label"]] for row in expected]
    assert len(found["xnli dev"][0]) == 2
    rows, _ = found["commonsense_qa train"]
    assert rows[1]["choices"] == ["c10", "c11", "c12", "c13", "c14"]
    assert (rows[1]["keys"], rows[1]["label"]) == (list("ABCDE"), "B")
    rows, _ = found["socialiqa train"]
    assert [row["label"] for row in rows] == ["A", "B", "C", "A", "B", "C"]
    assert [row["tags"] for row in found["panx train"][0]] == [["O", "B-LOC"]] * 2
    assert found["squad train"][0][4]["answers"] == repositories.qa_rows(5)[4]["answers"]["text"]
    assert len(found["xquad test"][0]) == len(found["lareqa test"][0]) == 4
    assert found["bucc2018_hub test"][0][0]["gold"] == [[1, 3], [4, 2]]
    assert found["mewslix index"][0][3] == {"id": "Q3", "candidate": repositories.sentences(5)[3]}
    assert 0 < len(found["mlm train"][0]) <= 6
    assert {name: len(found[name][0]) for name in ROWS} == ROWS
    assert found["tagging"][0][0] == {"tokens": ["a", "b", "c"], "label": [0, 1, 2]}
    answer = repositories.qa_rows(3)[2]
    assert found["span QA"][0][2] == {
        "id": "q2",
        "question": answer["question"],
        "answers": answer["answers"]["text"],
        "starts": answer["answers"]["answer_start"],
    }
    assert found["answer retrieval"][0][1]["answers"] == repositories.qa_rows(4)[1]["answers"]["text"]
    assert found["MLM"][0][5]["text"] == repositories.sentences(6)[5]


def check_downloads(server: Hub) -> None:
    """Of a repository only the configuration and split that are wanted come; it is looked up once."""
    names = [name for name, _ in server.downloads()]
    assert "de/test-00001-of-00002.parquet" in names
    assert not [name for name in names if name.startswith(("ar/", "th/", "onnx/"))]
    assert not {"pytorch_model.bin", "social_i_qa.py", "20231101.de/train-00000-of-00002.parquet"} & set(names)
    assert len([path for _, path, _ in server.log if path == "/api/datasets/google/xtreme/revision/main"]) == 1


def check_base(base: dict[str, Any], server: Hub, commit: str) -> None:
    """It is named by its commit; and its download went on where it was cut off (transformers has read it)."""
    assert base["mark"] == commit
    assert base["files"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert base["parameters"] > 10_000
    spans = [span for _, span in server.downloads("model.safetensors")]
    assert spans[0] == ""
    assert len(spans) == 2
    assert int(spans[1].removeprefix("bytes=").removesuffix("-")) > 0


def test_text_towers(hub: Hub, root: Path, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each only what is needed: configuration, tokenizer, and safetensors or else the pickle."""
    repositories.tower(root, tmp_path / "local", "BAAI/AltCLIP")
    repositories.tower(root, tmp_path / "m9", "BAAI/AltCLIP-m9", safe=True)
    repositories.tower(root, tmp_path / "bare", "my/AltCLIP", tokenizer=False)
    client("environment", XTRAIN_CACHE=str(tmp_path / "cache"))

    def downloads(name: str, request: str = "plain") -> tuple[Any, list[str]]:
        asked = len(hub.downloads())
        found = client(request, name=name)
        return found, sorted(file for file, _ in hub.downloads()[asked:])

    files, names = downloads("BAAI/AltCLIP", "tokens")
    assert files == names == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    made, names = downloads("BAAI/AltCLIP")
    assert names == ["pytorch_model.bin"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(made["files"])
    assert Path(made["folder"]).parent == tmp_path / "cache" / "towers"
    monkeypatch.setenv("XTRAIN_CACHE", str(tmp_path / "other"))
    from xtrain.model import base_fingerprint, resolve

    assert base_fingerprint(resolve(str(tmp_path / "local"))) == made["mark"], "from the hub and from a folder alike"

    safe, names = downloads("BAAI/AltCLIP-m9")
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    bare, names = downloads("my/AltCLIP")
    assert names == ["config.json", "pytorch_model.bin", "tokenizer.json", "tokenizer_config.json"]
    assert safe["mark"] == bare["mark"] == made["mark"]
    assert downloads("my/AltCLIP", "tokens") == (["tokenizer.json", "tokenizer_config.json"], [])

    labse = {"model_type": "M-CLIP", "modelBase": "sentence-transformers/LaBSE"}
    other = {"config.json": json.dumps(labse).encode(), "pytorch_model.bin": b"x"}
    repositories.publish(root, "models", "M-CLIP/LABSE-Vit-L-14", other)
    error = client.refused("plain", name="M-CLIP/LABSE-Vit-L-14")
    assert "config.json: modelBase: 'sentence-transformers/LaBSE' is no XLM-R" in error
    assert [file for file, _ in hub.downloads()][-1] == "config.json", "refused before its weights"

    client("environment", HF_HUB_OFFLINE="1")
    client("forget")
    assert client("plain", name="BAAI/AltCLIP") == made
    assert client("plain", name="my/AltCLIP") == bare


def test_a_cache_that_another_program_filled(hub: Hub, tmp_path: Path) -> None:
    """`hf download` on a machine with a network, then the compute node; and HF_HUB_OFFLINE set late."""
    script = (
        "from huggingface_hub import snapshot_download as get;"
        "get('facebook/xnli', repo_type='dataset', allow_patterns=['README.md', 'de/*']);"
        "get('allenai/social_i_qa', repo_type='dataset', revision='refs/convert/parquet');"
        f"get('{BASE}', ignore_patterns=['onnx/*'])"
    )
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **variables}, check=True, timeout=60)
    asked = len(hub.log)
    with Client(hub.url, tmp_path / "home") as client:
        client("environment", HF_HUB_OFFLINE="1")
        assert len(client("rows", task="xnli", split="test", language="de")) == 6
        assert len(client("rows", task="socialiqa", split="dev", language="en")) == 1
        files = ["config.json", "model.safetensors", "tokenizer.json"]
        assert len(client("fetched", kind="model", name=BASE, files=files)) == 40
        error = client.refused("rows", task="xnli", split="test", language="ar")
        assert "no file ar/test-*" in error
    assert len(hub.log) == asked


def test_revisions(root: Path, client: Client) -> None:
    """A branch that moved changes the hash and the rows; a commit does not; the cache keeps both."""
    old = (root / "datasets/facebook/xnli/refs/main").read_text()
    source = {"hub": "facebook/xnli", "config": "{lang}", "splits": {"test": "test"}, "columns": {"a": "premise"}}
    branch = {"source": source, "split": "test", "language": "de"}
    pinned = {**branch, "source": {**source, "revision": old}}
    before, rows = client("fingerprint", **branch), client("records", **branch)
    assert before == ["facebook/xnli", "de", old, "test"] == client("fingerprint", **pinned)
    new = repositories.xnli(root, seed=9)
    try:
        assert client("fingerprint", **branch) == before, "one process sees one commit"
        client("forget")
        assert client("fingerprint", **branch) == ["facebook/xnli", "de", new, "test"]
        assert client("records", **branch) != rows
        assert client("fingerprint", **pinned) == before
        assert client("records", **pinned) == rows
    finally:
        repositories.xnli(root)
    error = client.refused("records", **{**branch, "source": {**source, "revision": "mian"}})
    assert "has no revision 'mian'" in error
    assert "did you mean 'main'" in error


def test_what_is_wrong_is_named_with_what_is_near(client: Client) -> None:
    def source(**keys: Any) -> dict[str, Any]:
        usual = {"hub": "google/xtreme", "config": "PAN-X.de", "splits": {"train": "train"}}
        return {"source": {"columns": {"tokens": "tokens"}, **usual, **keys}, "split": "train", "language": "de"}

    plain = {"hub": "my-group/opinions", "config": ""}
    script = {"hub": "allenai/social_i_qa", "config": "default", "columns": {"text": "context"}}
    branch = {**script, "revision": "refs/convert/parquet"}
    cases = [
        (source(hub="google/extreme"), "neither a directory here nor a data set", "did you mean 'google/xtreme'"),
        (source(hub="helaswag"), "neither a directory here nor a data set", "did you mean 'Rowan/hellaswag'"),
        (source(hub="a/b/c"), "neither a directory here nor a data set", 'hub id such as "nyu-mll/glue"'),
        (source(config="PANX.de"), "no configuration 'PANX.de'", "did you mean 'PAN-X.de'"),
        (source(splits={"train": "trian"}), "no split 'trian'", "did you mean 'train'"),
        (source(splits={"train": "train[:10%]"}), "is not a split", "hash_split"),
        (source(columns={"tokens": "token"}), "no column 'token'", "did you mean 'tokens'"),
        (source(**plain, splits={"train": "tset"}), "no split 'tset'", "did you mean 'test'"),
        (source(**plain | {"config": "xx"}), "no configuration 'xx'", "there are none"),
        (source(**script), "has a loading script", 'revision = "refs/convert/parquet"'),
        (source(**branch, splits={"train": "dev"}), "no split 'dev'", "train, validation"),
        (source(**branch | {"config": "defualt"}), "no configuration 'defualt'", "did you mean 'default'"),
    ]
    for given, what, near in cases:
        error = client.refused("records", **given)
        assert what in error, error
        assert near in error, error


def test_closed_repositories_and_tokens(hub: Hub, root: Path, client: Client) -> None:
    """Who may not read is told how to log in, and a token is never shown."""
    for name in ("private", "gated", "forbidden"):
        data = b'{"text": "x"}\n'
        repositories.publish(root, "datasets", f"closed/{name}", {"train.jsonl": data})
        (root / "datasets" / "closed" / name / name).touch()

    def source(name: str) -> dict[str, Any]:
        keys = {"hub": f"closed/{name}", "splits": {"train": "train"}, "columns": {"text": "text"}}
        return {"source": keys, "split": "train", "language": "en"}

    for name, what in (("private", "neither a directory"), ("gated", "access to it must be granted")):
        error = client.refused("records", **source(name))
        assert what in error
        assert "HF_TOKEN" in error
        assert "none is set" in error
    client("environment", HF_TOKEN=SECRET)  # one that the hub does not know
    error = client.refused("records", **source("private"))
    assert "refuses to show this data set (401)" in error
    assert "the one that is set may not read it" in error
    hub.tokens.add(SECRET)
    assert client("records", **source("private")) == client("records", **source("gated")) == [{"text": "x"}]
    assert "(403)" in client.refused("records", **source("forbidden"))
    assert SECRET not in client.errors.read_text()


def test_an_interrupted_download_is_not_taken_for_a_whole_one(hub: Hub, client: Client) -> None:
    """The hub fails at the second of two files: an error; without a network too; then only it is fetched."""
    source = {**SOURCES["MLM"], "hub": "wikimedia/wikipedia"}
    given = {"source": source, "split": "train", "language": "de"}
    hub.failures["20231101.sw/train-00001-of-00002.parquet"] = 1
    error = client.refused("records", **given)
    assert "could not be fetched whole" in error
    assert "run the same command again" in error
    client("forget")
    client("environment", HF_HUB_OFFLINE="1")
    assert "train-00001-of-00002.parquet: not in the local hub cache" in client.refused("records", **given)
    client("environment", HF_HUB_OFFLINE="0")
    client("forget")
    asked = len(hub.downloads())
    assert len(client("records", **given)) == 6
    assert [name for name, _ in hub.downloads()[asked:]] == ["20231101.sw/train-00001-of-00002.parquet"]
