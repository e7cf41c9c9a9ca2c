"""How well residual noise tells added noise from everything else, on photographs that two packages bring.

    python tests/reference/noise_auc.py [--pictures-python reference/bin/python]

That Python (default: this one) has scikit-image and scikit-learn, torch and Pillow. Noise of 4/255 is added, white or
blurred; against it stand the clean, the sharpened and the contrast-changed pictures. AUC is the chance that a picture
with noise is judged noisier than one without: any of them, or the same one (in brackets).
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from asyncdiff.tpm.rewards.noise import _block_noise, residual_noise
from asyncdiff.tpm.rewards.pictures import as_floats, open_picture
from exchange import Worker

STD = 4.0  # 8-bit levels
KINDS = {  # blur in pixels, channels that have noise of their own
    "white": (0.0, 3),
    "white, gray": (0.0, 1),
    "blur 0.7 px": (0.7, 3),
    "blur 1 px": (1.0, 3),
    "blur 1.5 px": (1.5, 3),
}
OURS = "two scales, 2 % (ours)"
ESTIMATORS = {
    OURS: residual_noise,
    "one scale, 2 %": lambda images: _block_noise(_gray(images), 0.02),
    "one scale, 5 %": lambda images: _block_noise(_gray(images), 0.05),
    "two scales, 5 %": partial(residual_noise, quantile=0.05),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures-python", default=sys.executable, help="has scikit-image and scikit-learn")
    python = str(Path(parser.parse_args().pictures_python).absolute())
    with tempfile.TemporaryDirectory() as folder:
        with Worker(python, "packages.py", folder, PYTHONPATH="") as packages:
            packages("pictures", folder=folder)
        kinds = {kind: sorted(Path(folder, kind).glob("*.png")) for kind in ("natural", "grainy", "texture")}
        report({kind: {path.stem: open_picture(path) for path in paths} for kind, paths in kinds.items()})


def report(kinds):
    pictures = kinds["natural"] | kinds["grainy"]
    found = {name: judge(estimate, pictures) for name, estimate in ESTIMATORS.items()}
    groups = {"colour photographs": len(kinds["natural"]), "with gray and astronomical ones": len(pictures)}
    print(f"Noise of {STD:g}/255 against clean, sharpened and contrast-changed: AUC over all pairs (of one picture)")
    for group, count in groups.items():
        print(f"\n{count} {group}: {', '.join(list(pictures)[:count])}")
        print(f"{'':<24}" + "".join(f"{kind:<16}" for kind in KINDS))
        for name, (noisy, others) in found.items():
            print(f"{name:<24}" + "".join(f"{_cell(noisy[kind][:count], others[:count]):<16}" for kind in KINDS))
    clean = found[OURS][1][:, 0]
    print("\nclean, /255: " + ", ".join(f"{name} {value:.2f}" for name, value in zip(pictures, clean, strict=True)))
    textures = (f"{name} {levels(residual_noise, picture):.2f}" for name, picture in kinds["texture"].items())
    print(f"textures without any noise, /255: {', '.join(textures)}")


def judge(estimate, pictures):
    """Noise found by kind (n,), and without any (n, 5), its first column for the clean pictures."""
    noisy = {
        kind: np.array([levels(estimate, with_noise(p, *how, seed)) for seed, p in enumerate(pictures.values())])
        for kind, how in KINDS.items()
    }
    others = [[levels(estimate, image) for image in without_noise(picture)] for picture in pictures.values()]
    return noisy, np.array(others)


def _cell(noisy, others):
    return f"{auc(noisy[:, None], others.reshape(1, -1)):.3f} ({auc(noisy[:, None], others):.3f})"


def with_noise(picture, blur, channels, seed):
    """The picture with Gaussian noise of `STD`, blurred by ``blur`` pixels and brought back to `STD`."""
    noise = np.random.default_rng(seed).normal(0, 1, (picture.height, picture.width, channels))
    if blur:
        noise = np.stack([_blurred(noise[..., channel], blur) for channel in range(channels)], -1)
    noise *= STD / noise.std()
    return Image.fromarray((np.asarray(picture) + noise).round().clip(0, 255).astype(np.uint8))


def without_noise(picture):
    """Clean, sharpened a little and a lot, and with less and more contrast."""
    sharper = [picture.filter(ImageFilter.UnsharpMask(radius=2, percent=p, threshold=0)) for p in (75, 150)]
    return [picture, *sharper, *(ImageEnhance.Contrast(picture).enhance(factor) for factor in (0.7, 1.3))]


def auc(noisy, others):
    """Over the pairs that broadcasting makes; a tie counts a half."""
    above = noisy - others
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def levels(estimate, picture):
    return float(estimate(as_floats([picture])[0][None]))


def _gray(images):
    return images.float().mean(1, keepdim=True) * 255


def _blurred(channel, blur):
    """Convolved with a Gaussian, row- and column-wise."""
    reach = np.arange(-int(4 * blur + 1), int(4 * blur + 1) + 1)
    kernel = np.exp(-0.5 * (reach / blur) ** 2)
    kernel = torch.from_numpy(kernel / kernel.sum())
    image = torch.from_numpy(channel)[None, None]
    image = torch.nn.functional.conv2d(image, kernel.view(1, 1, -1, 1), padding=(len(reach) // 2, 0))
    return torch.nn.functional.conv2d(image, kernel.view(1, 1, 1, -1), padding=(0, len(reach) // 2))[0, 0].numpy()


if __name__ == "__main__":
    main()
