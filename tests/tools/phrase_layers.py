"""Which layers and heads of an embedded pipeline's MMDiT carry phrases: how well their attention tells each object.

    cd tests && python -m tools.phrase_layers [--model FOLDER] [--prompts 64] [--steps 8]

AUC: the chance that a patch of an object has more of its phrase's attention than a patch elsewhere (.5 knows nothing),
where the objects are those of the finished picture, as the judge sees them. IoU: of the region of the mean's threshold
with them. Held-out captions; means over captions, objects and, where nothing else is said, steps.
"""

import argparse

import torch

from asyncdiff.tpm.cli.shared import models
from asyncdiff.tpm.embedded.judges import load_judge
from asyncdiff.tpm.embedded.pixelwise import SIZE, measured_captions, overlap, parts, regions_of
from asyncdiff.tpm.embedded.vocabulary import object_phrases
from asyncdiff.tpm.hosts.diffusers.attention import AttentionCapture
from asyncdiff.tpm.hosts.diffusers.tokens import item_tokens
from asyncdiff.tpm.pixelwise.attention_maps import text_maps
from asyncdiff.tpm.pixelwise.regions import from_attention
from asyncdiff.tpm.pixelwise.timestep_rows import coarse

WORDS = {"whole phrase": slice(None), "noun": slice(-1, None), "adjectives": slice(None, -1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=models.EMBEDDED, help="an embedded pipeline (default: the shipped one)")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="captions (64)")
    parser.add_argument("--steps", type=int, default=8, metavar="K", help="default: 8")
    parser.add_argument("--cfg", type=float, default=3.0, help="default: 3")
    args = parser.parse_args()
    model = models.locate(args.model)
    studio, judge, world = models.open_studio(model, None, "cpu"), load_judge(model.folder), models.world_of(model)
    prompts = measured_captions(world, world.objects, args.prompts)
    maps, images = watched(studio, prompts, args)
    report(maps, regions_of(judge.look(images), prompts))


class EveryHead(AttentionCapture):
    """Keeps the maps of every layer, head and word, call by call."""

    def __init__(self, pipe, tokens):
        super().__init__(pipe, tokens)
        self._every, self.calls = tokens, []

    def before_denoiser(self, *call):
        super().before_denoiser(*call)
        self.calls.append([])

    def add(self, query, key):
        rows = slice(len(query) - len(self._every), None)  # guidance puts the prompt's rows last
        pairs = list(zip(query[rows].split(1), key[rows].split(1), self._every, strict=True))
        heads = range(query.shape[1])
        self.calls[-1].append(
            {
                words: torch.stack(
                    [
                        torch.cat([text_maps(q[:, h : h + 1], k[:, h : h + 1], cut(items, part), self._grid)
                                   for q, k, items in pairs])
                        for h in heads
                    ]
                )
                for words, part in WORDS.items()
            }
        )  # fmt: skip


def cut(items, part):
    return [list(tokens)[part] or list(tokens) for tokens in items]


def watched(studio, prompts, args):
    """Maps by word (steps, layers, heads, n, J, h, w), and the pictures (n, 3, H, W)."""
    found, images = {words: [] for words in WORDS}, []
    for part in parts(len(prompts)):
        some = prompts[part]
        tokens = [item_tokens(studio.pipe, prompt, object_phrases(prompt), t5_length=0) for prompt in some]
        capture = EveryHead(studio.pipe, tokens)
        capture.attach()
        try:
            seeds = list(range(part.start, part.stop))
            images.append(studio.render(some, seeds, steps=args.steps, guidance=args.cfg).images)
        finally:
            capture.detach()
        for words, kept in found.items():
            kept.append(torch.stack([torch.stack([layer[words] for layer in call]) for call in capture.calls]))
    return {words: torch.cat(kept, 3) for words, kept in found.items()}, torch.cat(images)


def report(maps, true):
    """Print the tables."""
    whole = maps["whole phrase"]
    steps, layers, heads = whole.shape[:3]
    patches = coarse(true, 2)
    print("| layer | " + " | ".join(f"head {head + 1}" for head in range(heads)) + " | all heads |")
    print("|---" * (heads + 2) + "|")
    for layer in range(layers):
        values = [auc(whole[:, layer, head].mean(0), patches) for head in range(heads)]
        values.append(auc(whole[:, layer].mean((0, 1)), patches))
        print(f"| {layer + 1} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    print(f"\nall layers and heads, all steps: {scores(whole.mean((0, 1, 2)), patches, true)}")
    for words, found in maps.items():
        print(f"{words}: {scores(found.mean((0, 1, 2)), patches, true)}")
    for step in range(steps):
        print(f"step {step + 1}: {scores(whole[step].mean((0, 1)), patches, true)}")
    for threshold in (1.0, 1.25, 1.5, 2.0):
        print(f"threshold {threshold:g}: {scores(whole.mean((0, 1, 2)), patches, true, threshold)}")


def scores(maps, patches, true, threshold=1.0):
    regions = from_attention(maps, [0.5] * true.shape[1], SIZE, threshold)
    return f"AUC {auc(maps, patches):.3f}, IoU {overlap(regions, true):.3f}"


def auc(maps, there):
    """Over objects that are there: maps (n, J, h, w), there bool of the same shape."""
    values = []
    for map_, mask in zip(maps.flatten(0, 1).flatten(1), there.flatten(0, 1).flatten(1), strict=True):
        inside, outside = map_[mask], map_[~mask]
        if len(inside) and len(outside):
            values.append(float((inside[:, None] > outside[None]).float().mean()))
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
