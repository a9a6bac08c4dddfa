"""What a study will take before any of it is run: steps, tokens, device-hours, hours, bytes; and what is assumed."""
