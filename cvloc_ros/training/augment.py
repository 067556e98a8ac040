"""How training samples are made more various than what was seen: colours, missing imagery, swapped sides."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BENT = 0.3  # of the recoloured images: share with a bent tone curve


@dataclass(frozen=True)
class AugmentConfig:
    """How towns are coloured for training, and how a view becomes a sample; probabilities, but the first.

    Attributes:
        natural_towns: the stream's first towns keep to the seasons' colours: matching is learned sooner in them.
        scatter: of colours and covers far from any season, in the later towns: see `Appearance.draw`.
        mirrored: swap left and right.
        blank_ground: no camera image.
        partial_coverage: imagery missing beyond an edge.
        recoloured: of each image: gamma, gain and offset by channel, grey, swapped channels.
        filtered: of each image: textures and colours that no camera gives, from a random filter.

    """

    natural_towns: int = 30
    scatter: float = 0.6
    mirrored: float = 0.5
    blank_ground: float = 0.03
    partial_coverage: float = 0.1
    recoloured: float = 0.7
    filtered: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        for name in ("scatter", "mirrored", "blank_ground", "partial_coverage", "recoloured", "filtered"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name}: expected 0 to 1, got {getattr(self, name)}")


def cut_coverage(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Remove the imagery (S, S) beyond a random straight edge."""
    size = coverage.shape[0]
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.5) * size
    row, col = np.mgrid[:size, :size] - size / 2
    return coverage * ((col * np.cos(angle) + row * np.sin(angle)) < offset)


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change each channel's gamma, gain and offset; sometimes bend the tones, mix down to grey or swap two channels.

    A bent tone curve need not rise: what was lighter than its surroundings may become darker, as snow turns lawns.
    """
    levels = np.linspace(0, 1, 256)
    if rng.random() < BENT:
        knots = np.linspace(0, 1, 5)
        levels = np.interp(levels, knots, np.clip(knots + rng.normal(0, 0.35, 5), 0, 1))
    gamma = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.08, 3))
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.08, 3))
    offset = rng.normal(0, 0.06) + rng.normal(0, 0.02, 3)
    tables = np.stack([np.clip(levels ** gamma[c] * gain[c] + offset[c], 0, 1) * 255 for c in range(3)], -1)
    image = cv2.LUT(np.ascontiguousarray(image), tables.astype(np.uint8)[None])
    if rng.random() < 0.15:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.merge([grey] * 3) if rng.random() < 0.5 else image[..., ::-1]
    return np.ascontiguousarray(image)


def filter_randomly(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix an image (H, W, 3) with what a random filter over its channels and a pixel's neighbours makes of it.

    Shapes stay and textures and colours do not: what a network learns from such images holds in styles that it has
    never seen (Xu et al., "Robust and generalizable visual representation learning via random convolutions", 2021).
    """
    size = int(rng.choice([1, 3]))
    kernels = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    given = image.astype(np.float32)
    made = np.stack(
        [sum(cv2.filter2D(given[..., c], -1, kernel[c]) for c in range(3)) for kernel in kernels],  # type: ignore[misc]
        axis=-1,
    )
    # as light and as contrasty as it was
    (mean, deviation), (made_mean, made_deviation) = (
        (value[:, 0].astype(np.float32) for value in cv2.meanStdDev(each)) for each in (given, made)
    )
    made = (made - made_mean) / (made_deviation + 1e-3) * deviation + mean
    share = rng.uniform(0, 1)
    return np.clip(share * given + (1 - share) * made, 0, 255).astype(np.uint8)


def mirror(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Swap left and right of the whole world in a sample of `make_sample`: a second town for the price of a flip."""
    flipped = {name: sample[name][..., ::-1] for name in ("image", "patch", "coverage", "patch_classes", "bev_classes")}
    flipped["pixels"] = sample["pixels"][:, :, ::-1] * np.array([-1, 1], np.float32)
    flipped["visible"] = sample["visible"][:, :, ::-1]
    for name, signs in (("camera", [1, -1, 1]), ("tilt", [1, -1]), ("truth", [1, -1, -1])):
        flipped[name] = sample[name] * np.array(signs, np.float32)
    return {**sample, **{name: np.ascontiguousarray(value) for name, value in flipped.items()}}
