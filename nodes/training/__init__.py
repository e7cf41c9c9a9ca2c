"""Training and searching in ComfyUI: a studio made of a graph's MODEL, and the nodes around it."""
