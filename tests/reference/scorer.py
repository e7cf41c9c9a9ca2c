"""This project's scorer, in a process of its own, so that its memory can be measured. `rewards.py` asks it."""

from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from asyncdiff.tpm.rewards.catalogue import open_metric
from asyncdiff.tpm.rewards.image_reward import ImageReward
from asyncdiff.tpm.rewards.pictures import crop_processor, crop_torchvision, letterbox, open_picture
from exchange import clock, peak_memory, serve

WRONG_CROP = {letterbox: crop_torchvision, crop_torchvision: crop_processor, crop_processor: crop_torchvision}


class Scorer:
    """What `rewards.py` may ask."""

    def __init__(self):
        self.metric, self.device = None, "cpu"

    def describe(self):
        found = {name: version(name) for name in ("torch", "transformers", "pillow")}
        return found | {"ftfy": version("ftfy") if find_spec("ftfy") else "absent"}

    def load(self, metric, folder, device="cpu", dtype="float32"):
        self.metric = open_metric(metric, Path(folder), device=device, dtype=dtype)
        self.device = device
        return peak_memory(device)

    def pairs(self, pairs, out):
        """Score each (picture, prompt) alone; its embeddings and scores go to ``out``."""
        found = [self._pair(open_picture(path), prompt) for path, prompt in pairs]
        save_file({key: torch.stack([one[key] for one in found]).contiguous() for key in found[0]}, out)
        return len(found)

    def _pair(self, picture, prompt):
        if isinstance(self.metric, ImageReward):
            return self._reward(picture, prompt)
        return self._cosine(picture, prompt)

    def _cosine(self, picture, prompt):
        seen, methods = {}, {"vision": "embed_pictures", "text": "embed_prompts"}
        for name, method in methods.items():
            setattr(self.metric, method, partial(self._kept, seen, name, getattr(self.metric, method)))
        score = self.metric.score([picture], [prompt])[0]
        for method in methods.values():
            delattr(self.metric, method)
        return {**seen, "score": score}

    @staticmethod
    def _kept(seen, name, embed, values):
        vectors = embed(values)
        seen[name] = vectors[0]
        return vectors

    def _reward(self, picture, prompt):
        seen, module = {}, self.metric.module
        parts = {"vision": module.vision, "text": module.text}
        hooks = [
            part.register_forward_hook(
                lambda _, __, output, name=name: seen.update({name: output.last_hidden_state[0]})
            )
            for name, part in parts.items()
        ]
        score = self.metric.score([picture], [prompt])[0]
        for hook in hooks:
            hook.remove()
        return {"vision": seen["vision"], "text": seen["text"][0], "score": score}

    def batched(self, pairs):
        """Scores of all pairs in one batch."""
        return self.metric.score([open_picture(path) for path, _ in pairs], [prompt for _, prompt in pairs]).tolist()

    def spoil(self, control):
        """Make one thing wrong that the comparison must notice. Load again before anything else."""
        if control == "epsilon":
            for part in self.metric.module.modules():
                if isinstance(part, nn.LayerNorm):
                    part.eps = max(10 * part.eps, 1e-5)
        elif isinstance(self.metric, ImageReward):
            self.metric._tokens.pad = -1  # no mask
        else:
            self.metric._prepare = WRONG_CROP[self.metric._prepare]
        return control

    def time(self, paths, prompt):
        """Seconds for pictures of one prompt, files to scores, the prompt unknown."""
        getattr(self.metric, "_known", {}).clear()
        started = clock(self.device)
        self.metric.score([open_picture(path) for path in paths], [prompt] * len(paths))
        return clock(self.device) - started

    def peak(self):
        return peak_memory(self.device)


if __name__ == "__main__":
    asked = Scorer()
    serve({name: getattr(asked, name) for name in ("describe", "load", "pairs", "batched", "spoil", "time", "peak")})
