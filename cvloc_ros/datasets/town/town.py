"""The town: generated from a seed, and rendered from the ground and from above."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cvloc_ros.datasets.town import routes
from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.cars import draw_cars
from cvloc_ros.datasets.town.ground_view import render_ground
from cvloc_ros.datasets.town.layout import Plan, generate_network
from cvloc_ros.datasets.town.lots import build
from cvloc_ros.datasets.town.markings import MarkingStyle, paint
from cvloc_ros.datasets.town.network import RoadNetwork
from cvloc_ros.datasets.town.places import draw_datum
from cvloc_ros.datasets.town.satellite_view import render_satellite
from cvloc_ros.datasets.town.scenery import Posts, Prisms, Slots, Trees
from cvloc_ros.datasets.town.site import Profile, Site
from cvloc_ros.datasets.town.styles import STYLES
from cvloc_ros.datasets.town.surface import Surface, draw_surface
from cvloc_ros.datasets.town.terrain import Terrain
from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, PinholeCamera


@dataclass(frozen=True, eq=False)
class Town:
    """A made-up town in an ENU frame centred on ``datum``; it spans ``size`` metres each way."""

    seed: int
    style: str
    size: float
    datum: LocalFrame
    roads: RoadNetwork
    terrain: Terrain
    surface: Surface
    prisms: Prisms
    trees: Trees
    posts: Posts
    slots: Slots

    @classmethod
    def generate(cls, seed: int, *, style: str = "train", size: float = 400.0) -> Town:
        """Generate the town of a seed; the same seed gives the same town, byte for byte.

        Raises:
            ValueError: the style is unknown or the size too small for a block of streets.

        """
        if style not in STYLES:
            raise ValueError(f"expected a town style of {sorted(STYLES)}, got {style!r}")
        if not 200 <= size <= 2000:
            raise ValueError(f"expected a town size of 200 to 2000 metres, got {size}")
        rng = np.random.default_rng([seed, sorted(STYLES).index(style), 0])
        plan = Plan.draw(rng)
        network = generate_network(rng, plan, size)
        profiles = [Profile.draw(rng, k) for k in range(4)]
        site = Site(rng, network, size, profiles, STYLES[style].grammars)
        build(site, plan.layout)
        marking = MarkingStyle.draw(rng)
        painted = paint(network, marking, rng)
        surface = draw_surface(site, painted, corner=float(rng.uniform(6, 9)), wear=marking.wear)
        return cls(
            seed=seed,
            style=style,
            size=size,
            datum=draw_datum(rng),
            roads=network,
            terrain=Terrain.draw(rng),
            surface=surface,
            prisms=Prisms.from_rows(site.prisms).within(size / 2),
            trees=Trees.from_rows(site.trees).within(size / 2),
            posts=Posts.from_rows(site.posts).within(size / 2),
            slots=Slots.from_rows(site.slots).within(size / 2),
        )

    @cached_property
    def prism_base(self) -> np.ndarray:
        """Height (N,) of the ground under each prism, metres."""
        return self.terrain(np.stack([self.prisms.x, self.prisms.y], axis=-1))

    def cars(self, seed: int) -> Prisms:
        """Return the parked and moving cars of one moment; some parked cars are there at every moment."""
        return draw_cars(self.seed, self.roads, self.slots, seed, self.size)

    def render_ground(
        self,
        T_map_base: SE2,
        camera: PinholeCamera,
        T_base_camera: np.ndarray,
        *,
        appearance: Appearance,
        cars: int | Prisms = 0,
    ) -> np.ndarray:
        """Render what a camera sees.

        The vehicle stands on the terrain, and pitches and rolls with it.

        Args:
            T_map_base: where the vehicle is in the town's frame.
            camera: intrinsics and distortion.
            T_base_camera: 4x4, optical frame to base_link.
            appearance: of the view.
            cars: the moment's seed for `cars`, or the cars themselves.

        Returns:
            RGB uint8 (camera.height, camera.width, 3).

        """
        moment = self.cars(cars) if isinstance(cars, int) else cars
        return render_ground(self, T_map_base, camera, T_base_camera, appearance, moment)

    def render_satellite(
        self, T_map_patch: SE2, grid: GroundGrid, *, appearance: Appearance, cars: int | Prisms = 0
    ) -> np.ndarray:
        """Render an aerial picture of a ground grid that lies at a pose: RGB uint8 (grid.rows, grid.cols, 3)."""
        moment = self.cars(cars) if isinstance(cars, int) else cars
        return render_satellite(self, T_map_patch, grid, appearance, moment)

    def lane_route(self, rng: np.random.Generator, length: float, *, margin: float = 60.0) -> np.ndarray:
        """Return a smooth path (N, 2), 0.5 m between points, along right-hand lanes with turns at junctions.

        Args:
            rng: chooses the start and the turns.
            length: at least so many metres; streets may be driven twice.
            margin: the junctions passed are at least so many metres inside the town's edge.

        Raises:
            ValueError: the town has no such route.

        """
        legs = routes.plan_legs(self.roads, rng, length, self.size / 2 - margin)
        return routes.lane_route(self.roads, legs)
