"""Pixel-wise asynchronous denoising: every pixel of the latent has its own timestep.

Regions that the prompt speaks of are denoised more slowly than their surroundings and so see a cleaner context. The
source is AsynDM (arXiv 2510.04504). `phrases`, `attention` and `regions` say which pixels belong together, `schedules`
how fast each goes, `updates` what one step does to them, and `maps` how a network's grid reads a map. `sd3` hands the
map to a network, `pipeline` drives a whole diffusers run.

For networks in their official layout, as ComfyUI has them: `networks` with `unet`, `mmdit`, `flux` and `rows` hand them
the map, `heat` watches their attention, `parametrization` reads what a host with one σ makes of their output. `items`,
`prompts` and `source` are what a user asks for, `course` is one run on a host's grid, `pictures` shows both.
"""
