"""Regions: which pixels a phrase or a drawn mask speaks of, as a hard partition.

masks are bool (B, J, H, W), of videos (B, J, T, H, W), J regions in the order of their strengths k; a pixel belongs to
one region at most, and to the background otherwise. The rules are those of AsynDM (arXiv 2510.04504); videos are an
extension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import RegionError
from .schedules import check_strengths
from .timestep_rows import check_divisible, fine

Size = tuple[int, ...]  # (height, width), or (frames, height, width) of a video


# --- the partition ------------------------------------------------------------------------------------------------


def partition(masks: Tensor, strengths: Sequence[float]) -> Tensor:
    """Where masks overlap, the highest k wins, ties go to the first region. bool (B, J, H, W), same shape."""
    check_strengths(strengths)
    if masks.dtype != torch.bool or masks.ndim not in (4, 5) or masks.shape[1] != len(strengths):
        raise RegionError(f"{len(strengths)} strengths do not fit masks of {tuple(masks.shape)}, {masks.dtype}.")
    won = torch.zeros_like(masks)
    taken = torch.zeros_like(masks[:, 0])
    for j in by_priority(strengths):
        won[:, j] = masks[:, j] & ~taken
        taken = taken | masks[:, j]
    return won


def by_priority(strengths: Sequence[float]) -> list[int]:
    """The regions from the strongest to the weakest, equals in their order."""
    return sorted(range(len(strengths)), key=lambda j: -strengths[j])


def concave(masks: Tensor, strengths: Sequence[float]) -> Tensor:
    """The control: every pixel in the region of the largest k, so all of them on one curve. Same shape."""
    everywhere = torch.zeros_like(masks)
    everywhere[:, by_priority(strengths)[0]] = True
    return everywhere


def check_partition(masks: Tensor, names: Sequence[str] | None = None, empty: bool = False) -> None:
    """Raise RegionError, naming the region, when one is empty in some image or two share a pixel.

    Reads the masks back from their device: once before a run. `empty`: regions from attention may be empty.
    """
    if not empty:
        check_present(masks, names)
    if (masks.sum(dim=1) > 1).any():
        pair = [name_of(j, names) for j in shared(masks)]
        raise RegionError(f"The regions {' and '.join(pair)} overlap; let regions.partition decide by strength.")


def check_present(masks: Tensor, names: Sequence[str] | None = None) -> None:
    """Raise RegionError, naming the region, when one is empty in some image."""
    for j in missing(masks):
        raise RegionError(f"The region {name_of(j, names)} is empty on the latent grid; draw it larger, or remove it.")


def missing(masks: Tensor) -> list[int]:
    """The regions that have no pixel in some image."""
    return (~masks.flatten(2).any(dim=2).all(dim=0)).nonzero().flatten().tolist()


def shared(masks: Tensor) -> list[int]:
    """The first two regions that hold one pixel together."""
    pixels = masks.movedim(1, -1).flatten(0, -2)
    return pixels[pixels.sum(dim=1) > 1][0].nonzero().flatten().tolist()[:2]


def name_of(j: int, names: Sequence[str] | None) -> str:
    """How a message calls region j: by its name in quotes, else by its number from 1."""
    return repr(names[j]) if names else str(j + 1)


# --- from attention -----------------------------------------------------------------------------------------------


def item_maps(layers: Sequence[Tensor], tokens: Sequence[Sequence[int]], grid: Size) -> Tensor:
    """How much every query attends to each item: (B, J, h, w), the mean over tokens, heads, then layers.

    layers: softmax(Q·Kᵀ/√d) over text keys, (B, heads, h·w, n) each, conditional half only. tokens: each item's
    positions among the n keys. Maps of several steps are averaged by their mean (static masks).
    """
    height, width = grid
    for layer in layers:
        if layer.ndim != 4 or layer.shape[2] != height * width:
            raise RegionError(f"Attention of {tuple(layer.shape)} has no {height} × {width} grid of queries.")
    if not layers or not tokens or not all(tokens):
        raise RegionError("Maps need the attention of at least one layer, and every item at least one token.")
    check_positions(tokens, min(layer.shape[3] for layer in layers))
    means = torch.stack([layer.mean(dim=1) for layer in layers]).mean(dim=0)
    columns = [means[..., list(positions)].mean(dim=-1) for positions in tokens]
    return torch.stack(columns, dim=1).unflatten(2, grid)


def check_positions(tokens: Sequence[Sequence[int]], length: int) -> None:
    """Raise RegionError unless every position lies among the text's keys (a prompt cut off by its encoder)."""
    furthest = max(max(positions) for positions in tokens)
    if furthest >= length or min(min(positions) for positions in tokens) < 0:
        raise RegionError(
            f"A phrase's token is at position {furthest}, but the text encoder gave {length}: shorten the prompt."
        )


def thresholded(maps: Tensor, threshold: float = 1.0) -> Tensor:
    """True where A ≥ threshold · its spatial mean, per image and item. maps (B, J, h, w); bool of the same shape."""
    maps = maps.double()  # the mean of equal values is then that value
    return maps >= threshold * maps.mean(dim=(-2, -1), keepdim=True)


def from_attention(maps: Tensor, strengths: Sequence[float], size: Size, threshold: float = 1.0) -> Tensor:
    """Regions (B, J, H, W) from attention maps (B, J, h, w): threshold, partition, nearest up to `size`."""
    won = partition(thresholded(maps, threshold), strengths)
    return F.interpolate(won.to(torch.uint8), size=size, mode="nearest").bool()


def before_attention(tokens: Sequence[Sequence[int]], size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Dynamic regions before the first maps: all pixels belong to the item whose token comes last. (1, J, H, W)."""
    last = max(range(len(tokens)), key=lambda j: max(tokens[j]))
    masks = torch.zeros(1, len(tokens), *size, dtype=torch.bool, device=device)
    masks[:, last] = True
    return masks


# --- from drawn masks ---------------------------------------------------------------------------------------------


def from_masks(
    masks: Sequence[Tensor],
    strengths: Sequence[float],
    size: Size,
    *,
    patch: int = 1,
    names: Sequence[str] | None = None,
) -> Tensor:
    """Regions (B, J, H, W) on a latent of `size` from drawn masks: area-resize, threshold .5, partition.

    masks: (h, w) or (B, h, w) in [0, 1], one per region, each of any size but the image's shape. On a latent of frames
    (T, H, W) a mask (F, h, w) is for the frames (see `in_time`), of every video of the batch; the regions are then
    (1, J, T, H, W). patch: the side of a transformer's patch; the regions are then whole patches. Raises RegionError
    for a mask of another shape, an empty or wholly covered region, and a latent that is not made of whole patches.
    """
    check_divisible(size, patch)
    grid = (*size[:-2], size[-2] // patch, size[-1] // patch)
    drawn = [shrunk(mask, grid, name_of(j, names)) for j, mask in enumerate(masks)]
    if not drawn or len({len(mask) for mask in drawn if len(mask) > 1}) > 1:
        raise RegionError("Give at least one mask, and masks for the same number of images.")
    batch = max(len(mask) for mask in drawn)
    asked = torch.stack([mask.expand(batch, *grid) for mask in drawn], dim=1)
    check_present(asked, names)
    won = partition(asked, strengths)
    for j in missing(won):
        raise RegionError(
            f"The region {name_of(j, names)} is covered by stronger ones; raise its strength or redraw it."
        )
    return fine(won, patch)


def shrunk(mask: Tensor, grid: Size, name: str) -> Tensor:
    """One drawn mask as bool (B, h, w), or (1, T, h, w) of frames: True where at least half of a cell is drawn."""
    if mask.ndim not in (2, 3) or mask.numel() == 0:
        raise RegionError(f"The mask of region {name} must be (H, W) or (B, H, W), not {tuple(mask.shape)}.")
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    if not ((mask >= 0) & (mask <= 1)).all():
        raise RegionError(f"The mask of region {name} must hold values from 0 to 1.")
    check_shape(mask.shape[-2:], grid, name)
    share = F.interpolate(mask, size=grid[-2:], mode="area")[:, 0]
    return (share if len(grid) == 2 else in_time(share, grid[0], name)[None]) >= 0.5


def in_time(frames: Tensor, count: int, name: str) -> Tensor:
    """A drawn mask (F, h, w) for the `count` frames of a latent: (count, h, w), how much of each is drawn.

    One mask is for all frames, and one for each frame of the latent stays as it is. Masks for the frames of the video
    itself are averaged as its autoencoder takes them together: the first alone, the others in groups of equal size.
    Raises RegionError for any other number.
    """
    given = len(frames)
    if given in (1, count):
        return frames.expand(count, -1, -1)
    if given < count or count < 2 or (given - 1) % (count - 1):
        raise RegionError(
            f"The mask of region {name} has {given} frames, and the video has {count} in its latent: give one mask for"
            f" all of them, {count} masks, or one for each frame of the video itself."
        )
    return torch.cat([frames[:1], frames[1:].unflatten(0, (count - 1, -1)).mean(dim=1)])


def check_shape(drawn: Sequence[int], grid: Size, name: str) -> None:
    """Raise RegionError when a mask's proportions are off by more than one cell of the grid."""
    height, width = grid[-2:]
    stretch = drawn[0] * width / (drawn[1] * height)
    if max(stretch, 1 / stretch) > 1 + 1 / min(height, width):
        raise RegionError(
            f"The mask of region {name} is {drawn[1]} × {drawn[0]}, which is not the shape of the image (latent grid"
            f" {width} × {height}); draw it on an image of the same proportions."
        )
