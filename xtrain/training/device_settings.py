"""What a process sets for its device before anything is computed: exact products, memory that grows in place."""

from __future__ import annotations

import os

import torch

# Images of containers set them; both are read by libraries when the first product is computed on a GPU.
OVERRIDES = ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE")
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the same, by its older and its newer name


def use_exact_products() -> list[str]:
    """Turn TensorFloat-32 off; must come before anything is computed. What was set against it, a line each.

    TF32 keeps 10 bits of the 23: scores of retrieval then differ in the third digit, and fp32 runs from those of CPUs.
    """
    found = [f"{name}={os.environ[name]}" for name in OVERRIDES if os.environ.get(name, "0") not in ("", "0")]
    for name in OVERRIDES:
        os.environ.pop(name, None)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    assert torch.get_float32_matmul_precision() == "highest"
    return [f"{one} is ignored: products in fp32 are exact here" for one in found]


def let_memory_grow() -> None:
    """Have torch's memory of a GPU in segments that grow, unless the user has chosen: batches differ at every step."""
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
