"""Pixel-wise asynchronous denoising: every pixel of the latent has its own timestep.

Regions that the prompt speaks of are denoised more slowly than their surroundings, and so see a cleaner context. The
source is AsynDM (arXiv 2510.04504).

What a user asks for: `requests`, with `tokens` (where a phrase is in the text that a network gets) and `nouns` (what a
prompt names). Where regions are: `regions`, from masks or from the attention that `attention_maps` takes in. How fast
each goes: `schedules`. One run of a host: `run`, with a policy on top by `policy_map`. What a step does to the latent:
`updates` and, where a host has one σ, `parametrization`. How a network is told: `timestep_rows`. `pictures` shows it.

The networks and samplers are those of a host: `hosts.diffusers`, and ComfyUI's in `nodes.pixelwise`.
"""
