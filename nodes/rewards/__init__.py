"""Reward models in ComfyUI: their loading, and the nodes that score and choose images."""
