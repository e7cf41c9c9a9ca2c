"""ComfyUI's networks under a map of timesteps, a file a family."""
