"""What containers set against exact products is taken back; what a user sets for memory stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xtrain.training import device_settings
from xtrain.training.device_settings import ALLOCATOR, OVERRIDES, let_memory_grow

CODE = """
import torch
from xtrain.training.device_settings import use_exact_products
before = torch.get_float32_matmul_precision()
print(before, use_exact_products(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
"""


def test_products_are_exact_whatever_an_image_has_set() -> None:
    environment = {**os.environ, **dict.fromkeys(OVERRIDES, "1")}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    before, _, rest = done.stdout.partition(" ")
    assert before == "high", "torch does not read it any more"
    for name in OVERRIDES:
        assert f"{name}=1 is ignored" in rest
    assert rest.split()[-2:] == ["highest", "False"]


def test_segments_grow_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_settings.os, "environ", {})
    let_memory_grow()
    assert device_settings.os.environ == {ALLOCATOR[0]: "expandable_segments:True"}
    for name in ALLOCATOR:
        mine = {name: "max_split_size_mb:512"}
        monkeypatch.setattr(device_settings.os, "environ", mine)
        let_memory_grow()
        assert mine == {name: "max_split_size_mb:512"}
