"""Pixel-wise asynchronous denoising in ComfyUI: the sampler, the model patch, and the nodes around them."""
