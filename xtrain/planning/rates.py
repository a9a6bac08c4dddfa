"""How fast a device trains: measured in this output folder, else given in the cluster's profile, else assumed.

One rate goes for all phases of a base. A forward pass without training is a third of the work of both (Kaplan et al.
2020: 2 of 6 FLOPs a parameter and token); heads, start-up, queues and restarts are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xtrain.config import read_toml
from xtrain.dispatch.cluster import Profile
from xtrain.errors import UserError, counted
from xtrain.files import read_json
from xtrain.graph import INTERMEDIATE, TARGET
from xtrain.phase.disk import Model
from xtrain.run_directory import RunDirectory
from xtrain.study import Study
from xtrain.training.throughput import DENSE_BF16_PEAK, device_peak
from xtrain.watching.starts import starts_of

MEASURED, PROFILE, PACKAGE = "measured", "profile", "assumed"
SHARE_OF_PEAK = 0.3  # of a GPU's dense bf16 peak: an assumption, for no GPU has been measured for this repository
CORE_FLOPS = 5e10
"""Of one CPU core in bf16: benchmarks/results/checkpoint_large.json has 512 tokens of XLM-R Large in 16 to 26 s."""
_TERA = 1e12
_ASSUMED_GPU = "A100"
STARTER = "starter"


@dataclass(frozen=True)
class Rate:
    """What one device does; one of the two numbers is given."""

    kind: str
    """MEASURED, PROFILE or PACKAGE."""
    source: str
    """Where it is from, for people."""
    tokens_per_second: float | None = None
    """Trained tokens."""
    flops: float | None = None
    """FLOP/s, as :func:`xtrain.training.throughput.training_flops` counts them."""

    def seconds(self, trained: float, forward: float, flops: float) -> float:
        """Device-seconds of so many tokens ``trained``, and only run ``forward``, which are ``flops`` together."""
        if self.tokens_per_second is not None:
            return (trained + forward / 3.0) / self.tokens_per_second
        assert self.flops is not None
        return flops / self.flops


def rate_of(study: Study, base: str, out: Path, profile: Profile | None) -> Rate:
    """The rate that a study's phases of a base are reckoned with, from the best source that there is."""
    return _measured(study, base, out) or _given(base, profile) or _assumed(base, profile)


def _measured(study: Study, base: str, out: Path) -> Rate | None:
    """The mean of finished training phases below ``out``, of the same base, precision and DeepSpeed configuration."""
    tokens = device_seconds = phases = 0.0
    for kind in (INTERMEDIATE, TARGET):
        for marker in sorted((out / kind).glob("*/DONE")):
            run = RunDirectory(marker.parent)
            try:
                written, done = read_toml(run.phase_file), read_json(marker)
                engine = written["engine"]
                same = (written["base"], engine["ds_config"], engine["precision"]) == (
                    base, study.engine.ds_config, study.engine.precision,
                )  # fmt: skip
                rate, seconds = float(done["tokens_per_second"]), float(done["training_seconds"])
            except (UserError, OSError, KeyError, TypeError, ValueError):
                continue  # of another version, or not whole: other phases are asked
            devices = max((start.devices for start in starts_of(run, kind)), default=0)
            if same and devices and rate and seconds:
                tokens, device_seconds, phases = tokens + rate * seconds, device_seconds + seconds * devices, phases + 1
    if not phases:
        return None
    mean = tokens / device_seconds
    source = f"{mean:,.0f} tokens a second a device, measured in {counted(int(phases), 'finished phase')} of {out}"
    return Rate(MEASURED, source, tokens_per_second=mean)


def _given(base: str, profile: Profile | None) -> Rate | None:
    if profile is None:
        return None
    tokens, tflops = profile.rates.tokens_per_second.get(base), profile.rates.tflops
    where = f"given in [rates] of {profile.file or profile.name}"
    if tokens is not None:
        return Rate(PROFILE, f"{tokens:,.0f} tokens a second a device, {where}", tokens_per_second=tokens)
    if tflops is not None:
        return Rate(PROFILE, f"{tflops:g} TFLOP/s a device, {where}", flops=tflops * _TERA)
    return None


def _assumed(base: str, profile: Profile | None) -> Rate:
    asked = profile.resources(TARGET) if profile is not None else None
    on_cpu = not asked.gpus_per_node if asked is not None else base == STARTER and device_peak() is None
    if on_cpu:
        source = f"assumed: {CORE_FLOPS / 1e9:g} GFLOP/s a rank of one core (benchmarks/results/checkpoint_large.json)"
        return Rate(PACKAGE, source, flops=CORE_FLOPS)
    name = asked.gpu_type.upper() if asked is not None else "this machine's GPU"
    peak = device_peak() if asked is None else _least_peak(name)
    if peak is None:
        name, peak = _ASSUMED_GPU, dict(DENSE_BF16_PEAK)[_ASSUMED_GPU]
    source = (
        f"assumed, for no GPU was measured: {SHARE_OF_PEAK:.0%} of the dense bf16 peak of {name}, which is "
        f"{SHARE_OF_PEAK * peak / _TERA:,.0f} TFLOP/s; [rates] of a profile says better (--cluster)"
    )
    return Rate(PACKAGE, source, flops=SHARE_OF_PEAK * peak)


def _least_peak(chip: str) -> float | None:
    """Of the cards of a chip (``H100``), which SLURM does not tell apart, the slowest one's peak in FLOP/s."""
    return min((peak for name, peak in DENSE_BF16_PEAK if name.split()[0] == chip), default=None)


_TOKENIZER = 22_000_000  # bytes of tokenizer.json and sentencepiece.bpe.model
_LARGE = Model.sized(250_002, 1024, 24, 4096, 515, _TOKENIZER)
_BASE = Model.sized(250_002, 768, 12, 3072, 515, _TOKENIZER)
KNOWN_MODELS = {
    "FacebookAI/xlm-roberta-base": _BASE,
    "FacebookAI/xlm-roberta-large": _LARGE,
    "intfloat/multilingual-e5-base": _BASE,
    "intfloat/multilingual-e5-large": _LARGE,
    "BAAI/AltCLIP": _LARGE,
    "M-CLIP/XLM-Roberta-Large-Vit-B-32": _LARGE,
    "M-CLIP/XLM-Roberta-Large-Vit-L-14": _LARGE,
    "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus": _LARGE,
    "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k": _BASE,
    "laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k": _LARGE,
    STARTER: Model.sized(250_037, 384, 12, 1536, 515, 9_100_000),
}
"""Sizes by name, for a base that is not at hand."""
