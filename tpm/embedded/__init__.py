"""The embedded pipeline: a procedural captioned world, and how the shipped SD3.5 pipeline was trained on it."""
