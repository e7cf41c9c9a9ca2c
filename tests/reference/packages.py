"""The reference packages, in a Python of their own: it imports nothing of this project.

`rewards.py` starts this file and asks it; it never starts anything and downloads nothing. What the environment needs,
with the torch that the scorer runs on (another build sums in another order):

    python -m venv reference && cd reference
    bin/pip install torch==2.13.0 torchvision==0.28.0
    bin/pip install transformers==4.46.3 ftfy regex requests clint scikit-image scikit-learn "setuptools<70"
    bin/pip install --no-deps image-reward==1.5 hpsv2==1.2.0 openai-clip==1.0.1 timm==0.6.13 fairscale==0.4.13
    cp lib/python3*/site-packages/clip/bpe_simple_vocab_16e6.txt.gz lib/python3*/site-packages/hpsv2/src/open_clip/

The last line adds a file that hpsv2's wheel lacks. Nothing of the packages is rewritten; what they would fetch from
hubs in their constructors is handed to them from the folder of the exchange.
"""

import gzip
import importlib
import json
import sys
import types
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from exchange import clock, peak_memory, serve

MED_CONFIG = {  # ImageReward's own med_config.json
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "type_vocab_size": 2,
    "vocab_size": 30524, "encoder_width": 768, "add_cross_attention": True,
}  # fmt: skip
PICTURES = {  # by kind and package; scikit-image names its pictures so
    ("natural", "skimage"): ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket"),
    ("natural", "sklearn"): ("china", "flower"),
    ("grainy", "skimage"): ("camera", "clock_motion", "coins", "hubble_deep_field", "moon"),
    ("texture", "skimage"): ("brick", "grass", "gravel"),
}
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}


def import_torchvision():
    """torchvision, also where its build does not fit torch's: its operators are absent then, and scoring needs none."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        names = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.kept = names


@contextmanager
def without_drawing():
    """Build models without drawing the initial weights that a file replaces; that would take most of the time."""
    drawing = {name: getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "erfinv_")}
    for name in drawing:
        setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, method in drawing.items():
            setattr(torch.Tensor, name, method)


class ImageReward:
    """``ImageReward.load(path)`` and its ``score``, which takes one prompt and pictures one after the other."""

    def __init__(self, folder, device):
        sys.modules["ImageReward.ReFL"] = types.ModuleType("ImageReward.ReFL")  # its trainer, which needs diffusers
        from ImageReward.utils import load

        config = Path("med_config.json")  # the working folder has bert-base-uncased too, which BertTokenizer finds
        config.write_text(json.dumps(MED_CONFIG), encoding="utf-8")
        self.model = load(str(folder / "ImageReward.pt"), device, med_config=str(config))

    def score(self, paths, prompt):
        return self.model.score(prompt, [str(path) for path in paths])

    def pair(self, path, prompt):
        seen = {}
        watched = {"vision": self.model.blip.visual_encoder, "text": self.model.blip.text_encoder}
        hooks = [part.register_forward_hook(partial(self._keep, seen, name)) for name, part in watched.items()]
        score = self.model.score(prompt, str(path))
        for hook in hooks:
            hook.remove()
        return {**seen, "score": torch.tensor(score)}

    @staticmethod
    def _keep(seen, name, module, inputs, output):
        seen[name] = (output if name == "vision" else output.last_hidden_state[:, 0])[0]


class Hps:
    """``hpsv2.img_score.score``, whose model is built as its `initialize_model` does, without LAION's weights."""

    def __init__(self, folder, device, *, file="HPS_v2_compressed.pt"):
        from hpsv2 import img_score

        model, _, preprocess = img_score.create_model_and_transforms(
            "ViT-H-14", None, precision="amp", device=device, light_augmentation=True, aug_cfg={}, output_dict=True
        )
        img_score.device = device
        img_score.model_dict.update(model=model, preprocess_val=preprocess)
        self.module, self.model, self.file = img_score, model, str(folder / file)
        self.score([], "")  # loads the checkpoint

    def score(self, paths, prompt):
        return [float(value) for value in self.module.score([str(path) for path in paths], prompt, cp=self.file)]

    @contextmanager
    def loaded(self):
        """Without its loading of the checkpoint at every call, to time the scoring alone."""
        load, take = torch.load, self.model.load_state_dict
        torch.load, self.model.load_state_dict = lambda *_, **__: {"state_dict": {}}, lambda _: None
        try:
            yield
        finally:
            torch.load, self.model.load_state_dict = load, take

    def pair(self, path, prompt):
        seen = {}
        hook = self.model.register_forward_hook(lambda module, inputs, output: seen.update(output))
        with self.loaded():
            (score,) = self.score([path], prompt)
        hook.remove()
        return {"vision": seen["image_features"][0], "text": seen["text_features"][0], "score": torch.tensor(score)}


class ClipScore:
    """``ImageReward.models.CLIPScore``, with a file where OpenAI's `clip.load` would fetch one.

    `clip.load` also takes a file of weights, but does not rewind it after looking for TorchScript in it, which newer
    releases of torch mind; so its two calls are made here.
    """

    def __init__(self, folder, device):
        import clip

        sys.modules["ImageReward.ReFL"] = types.ModuleType("ImageReward.ReFL")
        from ImageReward.models.CLIPScore import CLIPScore

        model = clip.model.build_model(torch.load(folder / "ViT-L-14.pt", weights_only=True))
        load, clip.load = clip.load, lambda *_, **__: (model.to(device), clip.clip._transform(224))
        self.model = CLIPScore(None, device).eval()
        clip.load = load

    @torch.no_grad()
    def score(self, paths, prompt):
        return self.model.score(prompt, [str(path) for path in paths])

    @torch.no_grad()
    def pair(self, path, prompt):
        seen, clip = {}, self.model.clip_model
        for name, method in (("vision", "encode_image"), ("text", "encode_text")):
            setattr(clip, method, partial(self._kept, seen, name, getattr(clip, method)))
        score = self.model.score(prompt, str(path))
        del clip.encode_image, clip.encode_text
        return {**seen, "score": torch.tensor(score)}

    @staticmethod
    def _kept(seen, name, encode, values):
        features = encode(values)
        seen[name] = F.normalize(features)[0]
        return features


class PickScore:
    """The snippet of PickScore's model card: `AutoModel`, LAION's `AutoProcessor`, cosines times exp(logit_scale)."""

    def __init__(self, folder, device):
        from safetensors.torch import load_file
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

        words = folder / "clip-vit-large-patch14"
        # What `AutoProcessor` gives. The slow tokenizer would mend quotes where ftfy is installed.
        tokenizer = CLIPTokenizerFast(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=77)
        self.processor = CLIPProcessor(CLIPImageProcessor(), tokenizer)
        with torch.device("meta"):
            model = CLIPModel(CLIPConfig(**self.config()))
        missing = model.load_state_dict(load_file(folder / "PickScore_v1/model.safetensors"), strict=True, assign=True)
        assert not missing.missing_keys
        for part in (model.text_model, model.vision_model):
            places = part.embeddings.position_embedding.num_embeddings
            part.embeddings.position_ids = torch.arange(places)[None]
        self.model, self.device = model.eval().to(device), device

    @staticmethod
    def config():
        """Of the ViT-H/14 that LAION converted: the end of a text is its highest token, which eos_token_id 2 means."""
        both = {"hidden_act": "gelu", "num_attention_heads": 16, "projection_dim": 1024}
        text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "eos_token_id": 2}
        vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "patch_size": 14}
        return {"text_config": both | text, "vision_config": both | vision, "projection_dim": 1024}

    def score(self, paths, prompt):
        return self.embed(paths, prompt)["score"].tolist()

    def pair(self, path, prompt):
        found = self.embed([path], prompt)
        return {name: value[0] for name, value in found.items()}

    @torch.no_grad()
    def embed(self, paths, prompt):
        options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
        images = self.processor(images=[Image.open(path) for path in paths], **options).to(self.device)
        texts = self.processor(text=prompt, **options | {"padding": "max_length"}).to(self.device)
        vision = self.model.get_image_features(**images)
        vision = vision / torch.norm(vision, dim=-1, keepdim=True)
        text = self.model.get_text_features(**texts)
        text = text / torch.norm(text, dim=-1, keepdim=True)
        return {"vision": vision, "text": text, "score": self.model.logit_scale.exp() * (text @ vision.T)[0]}


METRICS = {
    "image-reward": ImageReward,
    "hps-v2": Hps,
    "hps-v2.1": partial(Hps, file="HPS_v2.1_compressed.pt"),
    "clip-score": ClipScore,
    "pick-score": PickScore,
}


class Reference:
    """What `rewards.py` may ask."""

    def __init__(self):
        self.metric, self.device = None, "cpu"

    def describe(self):
        names = (
            "torch",
            "torchvision",
            "transformers",
            "image-reward",
            "hpsv2",
            "openai-clip",
            "timm",
            "ftfy",
            "pillow",
        )
        return {name: version(name) for name in names}

    def pictures(self, folder):
        """Copy colour photographs, gray and astronomical ones, and textures, as PNG in a folder for each kind."""
        for (kind, package), names in PICTURES.items():
            (Path(folder) / kind).mkdir(parents=True, exist_ok=True)
            for name in names:
                Image.open(self._path(package, name)).save(Path(folder) / kind / f"{name}.png")
        return sum(map(len, PICTURES.values()))

    @staticmethod
    def _path(package, name):
        found = find_spec(package)
        if found is None:
            raise SystemExit(f"This Python has no {package}; see the installation in packages.py.")
        folder = Path(found.origin).parent / FOLDERS[package]
        return next(path for path in folder.iterdir() if path.stem == name)

    def words(self, folder):
        """Write CLIP's vocabulary in Hugging Face's two files, from the one that OpenAI's package brings."""
        import_torchvision()
        packed = Path(find_spec("clip").origin).with_name("bpe_simple_vocab_16e6.txt.gz")
        merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
        from clip.simple_tokenizer import SimpleTokenizer

        (Path(folder) / "vocab.json").write_text(json.dumps(SimpleTokenizer(str(packed)).encoder), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        return len(merges)

    def load(self, metric, folder, device="cpu"):
        import_torchvision()
        with without_drawing():
            self.metric, self.device = METRICS[metric](Path(folder), device), device
        return peak_memory(device)

    def pairs(self, pairs, out):
        """Score each (picture, prompt) alone; its embeddings and scores go to ``out``."""
        from safetensors.torch import save_file

        found = [self.metric.pair(path, prompt) for path, prompt in pairs]
        save_file({key: torch.stack([one[key].cpu() for one in found]).contiguous() for key in found[0]}, out)
        return len(found)

    def time(self, paths, prompt):
        """Seconds that the package's own loop takes for pictures of one prompt."""
        quiet = self.metric.loaded() if isinstance(self.metric, Hps) else torch.no_grad()
        with quiet:
            started = clock(self.device)
            self.metric.score(paths, prompt)
            return clock(self.device) - started

    def peak(self):
        return peak_memory(self.device)


if __name__ == "__main__":
    asked = Reference()
    serve({name: getattr(asked, name) for name in ("describe", "pictures", "words", "load", "pairs", "time", "peak")})
