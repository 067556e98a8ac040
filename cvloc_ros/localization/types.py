"""What goes into a localization and what comes out of it; the same objects online and offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2, Camera


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image with all that is needed to place it on the ground.

    Attributes:
        stamp: when the image was taken, nanoseconds.
        image: RGB uint8, (H, W, 3); ``camera`` has the same size.
        camera: intrinsics of the image as it is.
        T_base_camera: 4x4, optical frame to base_link; its translation's z is the camera's height over the ground.

    """

    stamp: int
    image: np.ndarray
    camera: Camera
    T_base_camera: np.ndarray

    def __post_init__(self) -> None:
        """Refuse an image that its camera did not take."""
        expected = (self.camera.height, self.camera.width, 3)
        if self.image.shape != expected or self.image.dtype != np.uint8:
            raise ValueError(
                f"expected an RGB uint8 image of shape {expected} as the camera info says, got "
                f"{self.image.dtype} of shape {self.image.shape}: use the camera info of this very image stream"
            )
        if self.T_base_camera.shape != (4, 4):
            raise ValueError(f"expected T_base_camera as a 4x4 matrix, got shape {self.T_base_camera.shape}")


@dataclass(frozen=True, eq=False)
class Prior:
    """Where the vehicle is thought to be when the image was taken.

    Attributes:
        T_map_base: the pose in the map.
        covariance: 3x3 over (east m, north m, yaw rad), in the map frame.

    """

    T_map_base: SE2
    covariance: np.ndarray


@dataclass(frozen=True, eq=False)
class Matches:
    """Ground points and where the matcher found them on the satellite patch.

    Attributes:
        base: (N, 2) metres in the vehicle's frame, x forward and y left.
        patch: (N, 2) the same points where they were found, metres in the prior's vehicle frame.
        weights: (N,) in [0, 1]; relative trust.

    """

    base: np.ndarray
    patch: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Posterior:
    """Probability of every pose of the search box, on a lattice in the frame of the satellite patch.

    Attributes:
        probability: (headings, xs, ys), sums to 1; 0 outside the search box.
        x: (xs,) metres forward of the patch's pose.
        y: (ys,) metres left of it.
        yaw: (headings,) radians from its heading.
        T_patch_prior: the prior in the patch's frame; the identity if the patch was cut at the prior.

    """

    probability: np.ndarray
    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray
    T_patch_prior: SE2 = SE2()

    def entropy(self) -> float:
        """Return the entropy in nats: 0 when one pose is certain."""
        p = self.probability[self.probability > 0]
        return float(-(p * np.log(p)).sum())


@dataclass(frozen=True, eq=False)
class Localization:
    """The matcher's answer for one frame.

    Attributes:
        stamp: the image's, nanoseconds.
        prior: what the search started from.
        T_map_base: the estimate.
        covariance: 3x3 over (east m, north m, yaw rad), in the map frame; finite and positive definite.
        quality: calibrated probability that the position is within 2 m, in [0, 1].
        accepted: whether the gate lets it through.
        reason: why not, one of `cvloc_ros.localization.gate.REASONS`; empty if accepted.
        matches: the correspondences, of the last flow.
        posterior: over the search box, where the method has one.
        milliseconds: time per stage.
        covered: share of the patch with imagery, 0 to 1.
        search_box: half-widths of the search around the prior (m forward, m left, rad).

    """

    stamp: int
    prior: Prior
    T_map_base: SE2
    covariance: np.ndarray
    quality: float
    accepted: bool
    reason: str
    matches: Matches
    posterior: Posterior | None
    milliseconds: dict[str, float]
    covered: float = 1.0
    search_box: tuple[float, float, float] = (0.0, 0.0, 0.0)
