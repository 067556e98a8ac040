"""The method on one page: cut a patch around the prior, match, weigh the evidence, place the vehicle in the map."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import Patch, SatelliteMap
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.evidence import weigh_evidence
from cvloc_ros.localization.gate import Gate
from cvloc_ros.localization.search_box import holds, search_box
from cvloc_ros.localization.types import Frame, Localization, Matches, Posterior, Prior
from cvloc_ros.models.matcher import Match, Matcher, MatchInput
from cvloc_ros.models.weights import load_matcher


class Localizer:
    """Finds frames on a satellite map; not for several threads at once."""

    def __init__(
        self,
        matcher: Matcher,
        calibration: Calibration,
        satellite_map: SatelliteMap | None,
        *,
        gate: Gate | None = None,
        keep_patch: bool = True,
    ):
        """Match by ``matcher``, whose evidence ``calibration`` was fitted to.

        Args:
            matcher: finds images on patches.
            calibration: of its evidence.
            satellite_map: None for a localizer that is only given patches.
            gate: the default one if it is None.
            keep_patch: search frame after frame on the same patch, for as long as the boxes lie within its reach.

        """
        self.matcher = matcher
        self.calibration = calibration
        self.satellite_map = satellite_map
        self.gate = gate or Gate()
        self.keep_patch = keep_patch
        self.spare: Callable[[RuntimeError], Matcher] | None = None
        """Gives the matcher that takes the place of this one when it fails, once."""
        self._patch: Patch | None = None

    def localize(self, frame: Frame, prior: Prior) -> Localization:
        """Find the frame on the map, starting from the prior.

        Raises:
            ImageryError: the imagery could not be read.
            ValueError: there is no map.

        """
        if self.satellite_map is None:
            raise ValueError("this localizer has no satellite map: give it one, or call match with a patch")
        began = time.perf_counter()
        patch = self._patch_around(prior)
        cut = 1e3 * (time.perf_counter() - began)
        found = self.match(frame, prior, patch)
        spent = found.milliseconds
        return replace(found, milliseconds={"patch": cut, **spent, "total": spent["total"] + cut})

    def expect(self, prior: Prior) -> Future | None:
        """Get ready for a frame that will have about this prior: cut the patch it needs, and begin to describe it.

        What fails here is told when the frame comes, which needs the same.

        Returns:
            What is done when the patch is described; None where nobody has to wait for that, or nothing was begun.

        """
        if self.satellite_map is None or not self.keep_patch:
            return None
        with suppress(Exception):
            patch = self._patch_around(prior)
            if patch is self._patch:
                return self.matcher.expect(patch.image, patch.coverage)
        return None

    def _patch_around(self, prior: Prior) -> Patch:
        """Return the patch of the frames before if the search box lies within its reach, else a new one."""
        assert self.satellite_map is not None
        kept, box = self._patch, search_box(prior, self.matcher.search_box)
        if kept is not None and holds(self.matcher.search_box, kept.T_map_patch.inverse() @ prior.T_map_base, box):
            return kept
        patch = self.satellite_map.patch(prior.T_map_base, self.matcher.patch_grid)
        # what is missing may be there by the next frame: imagery is fetched in the background
        self._patch = patch if self.keep_patch and patch.coverage.all() else None
        return patch

    def match(self, frame: Frame, prior: Prior, patch: Patch) -> Localization:
        """Find the frame on a patch (on the matcher's grid) that was cut at the prior, or not far from it.

        Args:
            frame: the image and its camera.
            prior: its covariance sizes the search box around it.
            patch: the satellite image there.

        """
        return self.match_batch([(frame, prior, patch)])[0]

    def match_batch(self, batch: Sequence[tuple[Frame, Prior, Patch]]) -> list[Localization]:
        """Find each frame on its patch, as `match` does; those of a batch together where the device is faster so."""
        # 1. Search three sigma of the prior, between a floor and what the matcher can.
        inputs = [self._input(*each) for each in batch]

        # 2. Match: where do the ground's features lie on the patch?
        try:
            matches = self.matcher.match_batch(inputs)
        except RuntimeError as error:
            if self.spare is None:
                raise
            self.matcher, self.spare = self.spare(error), None
            matches = self.matcher.match_batch(inputs)

        return [self._judge(*each, given, match) for each, given, match in zip(batch, inputs, matches, strict=True)]

    def _input(self, frame: Frame, prior: Prior, patch: Patch) -> MatchInput:
        """Return what the matcher has to know of a frame."""
        T_patch_prior = patch.T_map_patch.inverse() @ prior.T_map_base
        return MatchInput(
            frame.image,
            frame.camera,
            frame.T_base_camera,
            patch.image,
            patch.coverage,
            box=search_box(prior, self.matcher.search_box),
            centre=(T_patch_prior.x, T_patch_prior.y, T_patch_prior.yaw),
        )

    def _judge(self, frame: Frame, prior: Prior, patch: Patch, given: MatchInput, match: Match) -> Localization:
        """Place a match in the map."""
        # 3. How sure is that? In the vehicle's axes, then turned into the map.
        began = time.perf_counter()
        evidence = weigh_evidence(match)
        T_map_base = patch.T_map_patch @ SE2(*match.pose)
        R = np.eye(3)
        R[:2, :2] = T_map_base.rotation()
        covariance = R @ self.calibration.covariance(evidence) @ R.T
        quality = self.calibration.probability(evidence)

        # 4. May it be believed?
        reason = self.gate.check(
            covered=patch.covered,
            quality=quality,
            covariance=covariance,
            edge_mass=evidence.edge_mass,
            solved=match.solved,
        )
        T_patch_prior = SE2(*given.centre)
        spent = {**match.milliseconds, "weigh": 1e3 * (time.perf_counter() - began)}
        return Localization(
            stamp=frame.stamp,
            prior=prior,
            T_map_base=T_map_base,
            covariance=covariance,
            quality=quality,
            accepted=not reason,
            reason=reason,
            matches=Matches(match.base, T_patch_prior.inverse().apply(match.patch), match.weights),
            posterior=Posterior(match.probability, match.x, match.y, match.yaw, T_patch_prior),
            milliseconds={**spent, "total": sum(spent.values())},
            covered=patch.covered,
            search_box=given.box,
        )


def load_localizer(
    satellite_map: SatelliteMap | None,
    *,
    method: str = "vote_flow",
    weights: str | None = None,
    device: str = "auto",
    gate: Gate | None = None,
    fast: bool = True,
) -> Localizer:
    """Build a localizer from a method's name.

    Args:
        satellite_map: where to cut patches from; None for a localizer that is only given patches.
        method: one of `cvloc_ros.models.weights.METHODS`.
        weights: a safetensors file with its card beside it; None for the weights that are shipped.
        device: "auto", "cpu" or "cuda[:i]".
        gate: limits other than the default.
        fast: as for driving, which gives the same poses to some millimetres; or the network as it was trained, with a
            patch of its own for every frame.

    Raises:
        WeightsError: an unknown method, no such device (`DeviceError`, of a GPU), or weights that do not load.
        ValueError: the weights' card has no calibration that fits.

    """
    matcher, card = load_matcher(method, weights=weights, device=device, fast=fast)
    return Localizer(matcher, Calibration.from_card(card), satellite_map, gate=gate, keep_patch=fast)
