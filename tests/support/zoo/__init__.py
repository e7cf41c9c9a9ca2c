"""Small networks of ComfyUI's model families: the real classes and samplings, at sizes that a CPU runs in milliseconds.

`ENTRIES` says how each class of `comfy.supported_models` is built and sampled. `unets`, `discrete`, `image`, `pixels`,
`video`, `wan`, `audio` and `other` hold the sizes; `build` makes a MODEL of an entry, `runs` samples it, and `contract`
says what an asynchronous run of it must hold. Weights are random, so nothing here shows what a family can do; what it
does with its timestep shows at any size.
"""

from support.zoo import audio, discrete, image, other, pixels, unets, video, wan
from support.zoo.entry import Entry

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for group in (unets, discrete, image, pixels, video, wan, audio, other)
    for entry in group.ENTRIES
}  # fmt: skip
