"""The two families of towns; what "heldout" looks like is nowhere in "train", so that it measures generalisation.

Both share what a town *is*: layouts, cross-sections, marking shapes, sizes of buildings, cars, terrain, cameras, and
the ranges of blur, noise and compression. "heldout" is a winter evening in the north, and differs in

- season: patchy snow on green, pavements and roofs (the roads are mostly cleared), each view its own patches; bare
  grey-brown crowns; a sun at 4 to 12 degrees; light that is blue;
- carriageways: near-black, mostly wet asphalt, or red brick in about a third of the views;
- paint: yellow, edge lines too (training: white, or white with a pale yellow centre);
- textures: Voronoi cobbles and cracks instead of smooth and band-limited noise;
- facades: timber in red and ochre with horizontal boards or battens and broad white window frames.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """A family of towns.

    Attributes:
        grammars: facade grammars, indices into `facades.GRAMMARS`.
        seasons: names of palettes in `palettes.SEASONS`.
        textures: names of noise kinds in `textures.KINDS`.

    """

    grammars: tuple[int, ...]
    seasons: tuple[str, ...]
    textures: tuple[str, ...]


STYLES = {
    "train": Style(
        grammars=(0, 1, 2, 3, 4, 5),
        seasons=("spring", "summer", "drought", "autumn", "frost", "rain", "dusk", "bleached"),
        textures=("grain", "fbm", "blotch", "streak", "speckle"),
    ),
    "heldout": Style(grammars=(6, 7), seasons=("snow",), textures=("cobble", "crackle")),
}
