"""The judges of the embedded worlds: does an image show what its caption says, how much detail, how much noise.

What they have in common, and the easy world's; the hard world's is `detector`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import AsyncDiffError
from ..files import write_atomically
from ..rewards.noise import residual_noise
from ..rewards.scoring import Judged
from . import labels as words
from .judge_file import FILE, MOST_OBJECTS
from .labels import IGNORED, ITEM_KINDS
from .loop import Draw
from .render import render
from .vocabulary import BACKGROUNDS, LAYOUTS, ObjectWords, Reading, check_caption, read
from .world import PIXELS, Scene, sample_scene

if TYPE_CHECKING:
    from PIL.Image import Image

AnyJudge = TypeVar("AnyJudge", bound="JudgeNetwork")
OBJECTS = MOST_OBJECTS["easy"]
HEADS = words.heads(LAYOUTS, OBJECTS)


@dataclass(frozen=True)
class Sight(ABC):
    """What a judge sees in n pictures. ``objects``: (n, H, W) in [0, 1], how sure it is that an object is there."""

    objects: Tensor

    @abstractmethod
    def agreement(self, row: int, reading: Reading) -> tuple[float, float]:
        """Share of what a caption asks for that one picture shows, and its mean probability; 1 if it asks nothing."""

    @abstractmethod
    def regions(self, row: int, reading: Reading) -> Tensor:
        """Where one picture has each object of a caption, (objects, H, W) in {0, 1}; zeros for one that is missing."""


class JudgeNetwork(nn.Module):
    """What the judges of both worlds have in common: their file, and the scores."""

    world: ClassVar[str]  # its name

    @property
    def most_objects(self) -> int:
        """In a picture of this world."""
        return MOST_OBJECTS[self.world]

    def look(self, images: Tensor) -> Sight:
        """What is seen in images (n, 3, 128, 128) in [0, 1], without gradients."""
        raise NotImplementedError

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (n, 3, 128, 128) in [0, 1]: means over the early maps, and what attributes are read from."""
        raise NotImplementedError

    @classmethod
    def load(cls: type[AnyJudge], path: str | Path) -> AnyJudge:
        """Read the judge from a safetensors file or from the pipeline folder that holds it."""
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        judge = cls()
        try:
            judge.load_state_dict({name: value.float() for name, value in load_file(file).items()})
        except Exception as error:
            raise AsyncDiffError(f"The judge {file} cannot be read ({error}); reinstall the package.") from error
        return judge.eval()

    def save(self, folder: Path) -> None:
        """Write ``judge.safetensors``, floats in half precision."""
        state = self.state_dict()
        kept = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        write_atomically(folder / FILE, save(kept, {"world": self.world}))

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Judge images (n, 3, 128, 128) in [0, 1] against ``prompts``; each value has shape (n,).

        ``attributes``: share of the caption's attributes that the image shows. ``alignment``: their mean probability.
        ``detail``: dots per 1,000 background pixels. ``noise``: residual noise, standard deviation in 8-bit levels.
        """
        if len(images) != len(prompts):
            raise AsyncDiffError(f"The judge got {len(images)} images but {len(prompts)} prompts; give one each.")
        images = sized(images)
        sight = self.look(images)
        pairs = [sight.agreement(row, read(prompt)) for row, prompt in enumerate(prompts)]
        return {
            "attributes": torch.tensor([hard for hard, _ in pairs]),
            "alignment": torch.tensor([soft for _, soft in pairs]),
            "detail": detail_density(images, sight.objects),
            "noise": residual_noise(images),
        }

    @torch.no_grad()
    def detail(self, images: Tensor) -> Tensor:
        """Dots per 1,000 background pixels (n,) of images (n, 3, 128, 128) in [0, 1]."""
        return detail_density(images, self.look(images).objects)


class Judge(JudgeNetwork):
    """A small convolutional reader of scenes: one class head an attribute, and a map of where the objects are.

    Object 0 is the left or upper one, object 1 the right or lower one.
    """

    world = "easy"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(down(3, 32, 5), down(32, 64, 3))
        self.trunk = nn.Sequential(down(64, 96, 3), down(96, 128, 3), down(128, 128, 3))
        self.read_out = nn.Sequential(nn.Flatten(), nn.Linear(128 * (PIXELS // 32) ** 2, 256), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(members)) for name, members in HEADS.items()})
        self.objects = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Images (n, 3, 128, 128) in [0, 1] → logits per attribute (n, classes), object mask logits (n, 128, 128)."""
        features = self.stem(images * 2 - 1)
        hidden = self.read_out(self.trunk(features))
        mask = F.interpolate(self.objects(features), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return {name: head(hidden) for name, head in self.heads.items()}, mask[:, 0]

    @torch.no_grad()
    def look(self, images: Tensor) -> Slots:
        """See :class:`JudgeNetwork`."""
        logits, mask = self(images)
        return Slots(mask.sigmoid(), {name: value.log_softmax(-1) for name, value in logits.items()})

    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`JudgeNetwork`: (n, 64) and (n, 256)."""
        maps = self.stem(images * 2 - 1)
        return maps.mean((2, 3)), self.read_out(self.trunk(maps))


@dataclass(frozen=True)
class Slots(Sight):
    """What the judge sees in n pictures of at most two objects. ``heads``: log-probabilities by name (n, classes)."""

    heads: Mapping[str, Tensor]

    def agreement(self, row: int, reading: Reading) -> tuple[float, float]:
        """See :class:`Sight`."""
        return agreement(self.heads, row, reading)

    def regions(self, row: int, reading: Reading) -> Tensor:
        """See :class:`Sight`. Two objects lie in the two halves of the picture."""
        mask = (self.objects[row] > 0.5).float()
        if len(reading.objects) < 2:
            return mask[None]
        first, middle = torch.zeros_like(mask), len(mask) // 2
        if LAYOUTS[int(self.heads["layout"][row].argmax())] == "vertical":
            first[:middle] = 1
        else:
            first[:, :middle] = 1
        halves = [first, 1 - first]
        return mask * torch.stack(halves[::-1] if reading.relation in ("right", "below") else halves)


def sized(images: Tensor) -> Tensor:
    """Images (n, 3, H, W) as the judge reads them: fp32 in [0, 1], 128 pixels a side."""
    images = images.float().clamp(0, 1)
    same = images.shape[-2:] == (PIXELS, PIXELS)
    return images if same else F.interpolate(images, size=(PIXELS, PIXELS), mode="area")


class JudgeMetric(Judged):
    """The judge as a metric: the mean probability of what the prompt asks for."""

    def __init__(self, judge: JudgeNetwork) -> None:
        super().__init__(judge, "alignment")
        self._most_objects = judge.most_objects

    def score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Alignment (n,). PromptError for a word outside the vocabulary and for what no picture of its world shows."""
        for prompt in dict.fromkeys(prompts):
            check_caption(prompt, self._most_objects)
        return super().score(pictures, prompts)


def down(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
    """A convolution that halves the sides."""
    convolution = nn.Conv2d(n_in, n_out, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


# ----------------------------------------------------------------------------------------------------- agreement


def agreement(log_probability: Mapping[str, Tensor], row: int, reading: Reading) -> tuple[float, float]:
    """Hard and soft agreement of one image with a caption; 1 where the caption asks for nothing.

    A caption that leaves the order open ("next to", "and") is judged in the order that fits better.
    """
    best = (-1.0, -1.0)
    for wanted in _demands(reading):
        hits = [_verdict(log_probability[name][row], allowed) for name, allowed in wanted]
        if hits:
            hard, soft = (sum(values) / len(hits) for values in zip(*hits, strict=True))
            best = max(best, (hard, soft))
    return best if best[0] >= 0 else (1.0, 1.0)


def _verdict(log_probability: Tensor, allowed: Sequence[int]) -> tuple[float, float]:
    return float(int(log_probability.argmax()) in allowed), float(log_probability[list(allowed)].exp().sum())


def _demands(reading: Reading) -> list[list[tuple[str, list[int]]]]:
    """Every admissible list of (head, allowed classes) for a caption."""
    common = [("background", [BACKGROUNDS.index(reading.background)])] if reading.background else []
    if not reading.objects:
        return [common]
    if len(reading.objects) == 1:
        return [[*common, ("layout", [0]), *_object_demands(reading.objects[0], 0)]]
    first, second = reading.objects
    straight = [*_object_demands(first, 0), *_object_demands(second, 1)]
    crossed = [*_object_demands(second, 0), *_object_demands(first, 1)]
    layout = {"left": [1], "right": [1], "above": [2], "below": [2]}.get(reading.relation or "", [1, 2])
    orders = {"left": [straight], "above": [straight], "right": [crossed], "below": [crossed]}
    return [[*common, ("layout", layout), *order] for order in orders.get(reading.relation or "", [straight, crossed])]


def _object_demands(words: ObjectWords, slot: int) -> list[tuple[str, list[int]]]:
    return [(f"{kind}{slot}", [ITEM_KINDS[kind].index(word)]) for kind, word in words.said.items()]


# -------------------------------------------------------------------------------------------------------- detail

DOT_CONTRAST = 0.07


def detail_density(images: Tensor, objects: Tensor) -> Tensor:
    """Dots per 1,000 background pixels (n,): peaks of a difference of Gaussians outside ``objects`` (n, H, W)."""
    response = (_blur(images, 1.2) - _blur(images, 3.0)).abs().amax(1, keepdim=True)
    peak = (response == F.max_pool2d(response, 5, 1, 2)) & (response > DOT_CONTRAST)
    background = F.max_pool2d(objects[:, None], 7, 1, 3) < 0.5
    dots = (peak & background).sum((1, 2, 3)).float()
    return 1000 * dots / background.sum((1, 2, 3)).clamp_min(1)


def _blur(images: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma + 0.5)
    offset = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-offset.float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


# ------------------------------------------------------------------------------------------------------ training


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class indices per head (n,); the second object of a single scene is ignored."""
    return words.labels(scenes, [scene.layout for scene in scenes], OBJECTS)


class JudgeTraining(nn.Module):
    """Train on renders, half of them softened, noised and dimmed so that generated images are read as well."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def loss(self, draw: Draw, batch: int) -> Tensor:
        """Cross-entropy over all heads plus the object mask's, for one batch of fresh scenes."""
        scenes = [sample_scene(draw.numpy, held_out=bool(draw.numpy.random() < 0.125)) for _ in range(batch)]
        images, masks, _ = render(scenes)
        device = next(self.parameters()).device
        logits, mask = self.judge(disturbed(draw, images).to(device))
        truth = labels(scenes)
        value = F.binary_cross_entropy_with_logits(mask, masks.to(device))
        for name, logit in logits.items():
            value = value + F.cross_entropy(logit, truth[name].to(device), ignore_index=IGNORED)
        return value


def disturbed(draw: Draw, images: Tensor) -> Tensor:
    """Half of the images softened, dimmed and noised, as generated ones may be."""
    strength = draw.uniform(len(images), 1, 1, 1) * (draw.uniform(len(images), 1, 1, 1) < 0.5)
    soft = torch.lerp(images, _blur(images, 1.2), strength)
    gain = 1 + 0.3 * strength * (draw.uniform(len(images), 3, 1, 1) - 0.5)
    return (soft * gain + 0.06 * strength * draw.normal(*images.shape)).clamp(0, 1)
