"""Where ranks come from: launchers' environments, and ranks started on this machine."""
