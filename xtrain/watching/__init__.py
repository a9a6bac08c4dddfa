"""Looking at runs from outside: status, usage, why, logs, cancel. It starts at once, so no torch in here."""
