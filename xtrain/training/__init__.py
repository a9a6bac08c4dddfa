"""Training: the loop, the DeepSpeed engine, optimizer, schedule, selection on dev, checkpoints."""
