"""The two families of towns. What "heldout" may look like is nowhere in "train", so that it measures generalisation."""

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
