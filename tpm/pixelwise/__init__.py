"""Pixel-wise asynchronous denoising: every pixel of the latent has its own timestep.

Regions that the prompt speaks of are denoised more slowly than their surroundings and so see a cleaner context. The
source is AsynDM (arXiv 2510.04504). `phrases` and `regions` say which pixels belong together, `schedules`
how fast each goes, `updates` what one step does to them, and `maps` how a network's grid reads a map. `retimed` puts a
policy's deviation on top.

For diffusers: `pipeline` drives a whole run, in the `motion` of its scheduler; `sd3` and `diffusers_unet` hand the map
to the network, `attention`, `diffusers_prompts` and `diffusers_regions` find the regions, `nouns` guesses what a prompt
names, `together` runs both asynchronies.

For networks in their official layout, as ComfyUI has them: `networks` with `unet`, `mmdit`, `flux` and `rows` hand them
the map, `heat` watches their attention, `parametrization` reads what a host with one σ makes of their output. `items`,
`prompts` and `source` are what a user asks for, `course` is one run on a host's grid, `pictures` shows both.
"""
