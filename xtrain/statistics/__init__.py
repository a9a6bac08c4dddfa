"""Statistics on numpy and scipy: estimates with intervals, tests and their corrections. Knows nothing of training."""
