"""Parameters that are larger than DeepSpeed's buckets: trained, saved and resumed as if there were none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from long import with_long
from op import compiled
from runs import Nursery, events, make_run, same_weights, settings

from xtrain.files import read_json

BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
PROJECT = Path(__file__).parents[2]
SMALL = 500  # numbers; the word embeddings have 400 * 32


@pytest.mark.parametrize("name", with_long(["zero1", "zero2", "zero3"], ["zero3_offload"]))
def test_parameters_larger_than_a_bucket(
    nursery: Nursery, undisturbed: Callable[..., Path], tmp_path: Path, tiny_model: Path, toy_data: Path, name: str
) -> None:
    compiled("offload" in name)
    config = read_json(PROJECT / f"ds_configs/{name}.json")
    zero = config["zero_optimization"]
    config["zero_optimization"] = {**zero, **{key: SMALL for key in BUCKETS if key in zero}}
    assert SMALL in config["zero_optimization"].values()
    (tmp_path / "small.json").write_text(json.dumps(config))
    stage = int(config["zero_optimization"]["stage"])
    changes = settings(stage, ds_config=str(tmp_path / "small.json"))
    run = make_run(tmp_path / "run", tiny_model, toy_data, changes)
    killed = nursery.run(run, fault={"kind": "kill at step", "step": 8, "who": "all"})
    assert killed.codes == [-9, -9], killed
    ended = nursery.run(run)
    assert ended.codes == [0, 0], ended
    assert [event["step"] for event in events(run, "resume")] == [6]
    assert same_weights(run, undisturbed(stage, **({"ds_config": name} if "offload" in name else {})))
