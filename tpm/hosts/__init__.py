"""Adapters without ComfyUI. Each translates between a host and a `Retimer`, and decides nothing itself."""
