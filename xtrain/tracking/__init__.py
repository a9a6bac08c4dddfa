"""The record of a run (metrics.jsonl, events.jsonl), W&B behind it, and progress for whoever watches."""

from xtrain.tracking.progress import Progress
from xtrain.tracking.record import Recorder, read_events, read_metrics
from xtrain.tracking.settings import TrackingSettings
from xtrain.tracking.wandb_run import WandbRun

__all__ = ["Progress", "Recorder", "TrackingSettings", "WandbRun", "read_events", "read_metrics"]
