"""The synthetic town: made-up streets at a real place, seen from a vehicle and from above.

A `Town` is what there is; an `Appearance` is how one view shows it. `render_pair` draws what a training step needs,
`write_orthophoto` what a map is made of.
"""

from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.orthophoto import write_orthophoto
from cvloc_ros.datasets.town.pairs import TownPair, crop_patch, render_pair, town_pairs
from cvloc_ros.datasets.town.town import Town

__all__ = ["Appearance", "Town", "TownPair", "crop_patch", "render_pair", "town_pairs", "write_orthophoto"]
