"""Asynchronous conditioning in ComfyUI: the model patch, the live view, and the nodes around them."""
