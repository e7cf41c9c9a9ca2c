"""Nodes that say what is slowed down: phrases of the prompt, or drawn masks."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ...tpm.pixelwise.errors import RegionError
from ...tpm.pixelwise.requests import Drawn, Regions, merged, parse_phrases
from .. import sockets
from ..latents import picture_part
from ..schema import refusal, schema
from .pictures import labels_of, overlay
from .tokens import phrase_items


class RegionsFromPrompt(io.ComfyNode):
    """Phrases of a prompt as regions, and the prompt's own conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffRegionsFromPrompt",
            display_name="Regions from Prompt",
            description="Encodes a prompt and makes regions of its phrases: each is where the model attends to it while"
            " the image forms. Regions are denoised more slowly than their surroundings.",
            search_aliases=[
                *("asyncdiff", "asyndm", "pixel-wise", "regions", "attention", "clip text encode", "prompt"),
                "prompt adherence",
            ],
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the prompt, and says which tokens a phrase is."),
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt, as in CLIP Text Encode."
                ),
                io.String.Input(
                    "phrases",
                    multiline=True,
                    default="",
                    placeholder="red circle: 0.5\nblue star: 0.3\ncat #2",
                    tooltip="One phrase of the prompt a line, as it stands there, with its strength k after a colon."
                    " #2 means its second occurrence.",
                ),
                sockets.strength_input("The k of lines without a number. 0: as fast as the background; above 0.7 the"
                                       " background may stay noisy."),
                io.Float.Input(
                    "threshold",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="A pixel belongs to a phrase where its attention is at least this many times the mean."
                    " Higher: smaller regions.",
                ),
                io.Combo.Input(
                    "masks",
                    options=["dynamic", "static"],
                    default="dynamic",
                    tooltip="dynamic: regions follow the attention of every step. static: a whole ordinary run comes"
                    " first and fixes them, which doubles the time.",
                ),
            ],
            outputs=[
                sockets.regions_output(),
                io.Conditioning.Output("conditioning", tooltip="The encoded prompt: the run's positive conditioning."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, phrases: str | None = None, strength: float | None = None) -> bool | str:
        """Refuse phrases that cannot be read before anything is queued; what comes by a link is not known yet."""
        return refusal(parse_phrases, phrases, 0.5 if strength is None else strength)

    @classmethod
    def execute(
        cls, clip: Any, text: str, phrases: str, strength: float, threshold: float, masks: str
    ) -> io.NodeOutput:
        """Encode once, and look the phrases up in the same tokens."""
        if clip is None:
            raise RegionError("There is no CLIP: this checkpoint holds no text encoder; use a loader that gives one.")
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        length = conditioning[0][0].shape[1]
        items = phrase_items(clip, text, parse_phrases(phrases, strength), length)
        texts = tuple(text for text, _ in conditioning)
        return io.NodeOutput(Regions(items, threshold, masks == "static", length, texts), conditioning)


class RegionFromMask(io.ComfyNode):
    """A drawn mask as a region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffRegionFromMask",
            display_name="Region from Mask",
            description="A drawn mask as a region that is denoised more slowly than its surroundings. Connect several"
            " in a row for several regions.",
            search_aliases=["asyncdiff", "asyndm", "pixel-wise", "region", "mask", "inpaint"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="White is the region. Any size of the image's proportions. Of a video: one mask for all"
                    " frames, one for each frame, or one for each frame of the latent.",
                ),
                sockets.strength_input("0: as fast as the background. Where regions overlap, the strongest wins; above"
                                       " 0.7 the background may stay noisy."),
                io.String.Input("name", default="region 1", tooltip="What messages and previews call it."),
                sockets.Regions.Input("regions", optional=True, tooltip="Other drawn regions, to have them all."),
            ],
            outputs=[sockets.regions_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask: torch.Tensor, strength: float, name: str, regions: Regions | None = None) -> io.NodeOutput:
        """Add one region."""
        return io.NodeOutput(merged(regions, Regions((Drawn(name.strip() or "region", strength, mask),))))


class PreviewRegions(io.ComfyNode):
    """Where regions are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffPreviewRegions",
            display_name="Preview Regions",
            description="Shows regions in colour over the image. Drawn regions are shown as they fall on the latent's"
            " grid, regions from a prompt as they were in the run that made this latent.",
            search_aliases=["asyncdiff", "asyndm", "pixel-wise", "regions", "attention map", "mask preview"],
            inputs=[
                sockets.regions_input("From Region from Mask or Regions from Prompt."),
                io.Latent.Input(
                    "samples",
                    tooltip="The output of the sampler that ran with these regions; for drawn ones any latent of the"
                    " size.",
                ),
                io.Int.Input(
                    "step",
                    default=-1,
                    min=-1,
                    max=10000,
                    tooltip="Which step's regions, from 0; −1 is the last. Drawn and static ones stay the same.",
                ),
                io.Image.Input("image", optional=True, tooltip="Shown below the colours; grey without it."),
                io.Int.Input(
                    "frame",
                    default=-1,
                    min=-1,
                    max=10000,
                    optional=True,
                    tooltip="Of a video: which frame of the latent, from 0; −1 shows the first, the middle and the"
                    " last.",
                ),
            ],
            outputs=[
                io.Image.Output("preview", tooltip="One picture for each image or chosen frame, with a legend."),
                io.Mask.Output(
                    "masks",
                    tooltip="A mask for each region, in their order, of the first image; of a video all frames of the"
                    " first region, then of the next.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        regions: Regions,
        samples: dict[str, Any],
        step: int,
        image: torch.Tensor | None = None,
        frame: int = -1,
    ) -> io.NodeOutput:
        """Draw the partition of one step."""
        latent = picture_part(samples["samples"])
        if latent.ndim not in (4, 5):
            raise RegionError(
                "Regions are places in a picture, and this latent has no height and width: it is"
                f" {tuple(latent.shape)}."
            )
        labels = labels_of(regions, latent, step)
        preview = overlay(labels, regions, image, frame)
        masks = torch.stack([(labels[0] == j).float() for j in range(1, len(regions.items) + 1)])
        masks = masks.reshape(-1, *masks.shape[-2:])
        return io.NodeOutput(preview, masks, ui=ui.PreviewImage(preview, cls=cls))


NODES = [RegionsFromPrompt, RegionFromMask, PreviewRegions]
