"""The Kalman filter behind the tracker: ``T_map_odom`` and how uncertain it is."""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle

_CHI2_99 = {1: 6.635, 2: 9.210}  # by degrees of freedom


def transport(displacement: np.ndarray) -> np.ndarray:
    """Return the 3x3 Jacobian that carries an error (east, north, yaw) to a point ``displacement`` (2,) metres away.

    Two points of one rigid body share the heading error; it moves the farther one sideways.
    """
    A = np.eye(3)
    A[0, 2], A[1, 2] = -displacement[1], displacement[0]
    return A


def at_least(covariance: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return ``covariance`` enlarged, and no more than needed, so that in no direction it is smaller than ``bound``."""
    values, vectors = np.linalg.eigh(bound - covariance)
    return covariance + (vectors * np.maximum(values, 0.0)) @ vectors.T


def correlation_factor(gap: float, length: float) -> float:
    """Return by how much to enlarge a covariance whose error persists over ``length``, ``gap`` after the last one.

    For errors with correlation exp(-gap / length), the mean of many measurements has (1 + rho) / (1 - rho) times the
    variance that independent ones would give.
    """
    if length <= 0 or not np.isfinite(gap):
        return 1.0
    return float(1.0 / np.tanh(max(gap, 1e-3 * length) / (2 * length)))


class PoseFilter:
    """Extended Kalman filter whose state is ``T_map_odom``.

    Its error is expressed as the error (east m, north m, yaw rad) of ``T_map_base`` at a *reference* odometry pose,
    the newest one. The same error at another pose on the odometry's path follows by `transport`, so that late
    measurements need no rewinding, and numbers stay small however far the odometry's origin is.
    """

    def __init__(self, T_map_base: SE2, covariance: np.ndarray, T_odom_base: SE2) -> None:
        """Start from a pose (covariance 3x3) that is held at ``T_odom_base``."""
        self.T_map_odom = T_map_base @ T_odom_base.inverse()
        self._reference = T_odom_base
        self._covariance = np.array(covariance, dtype=float)

    def pose_at(self, T_odom_base: SE2) -> tuple[SE2, np.ndarray]:
        """Return ``T_map_base`` and its 3x3 covariance at an odometry pose."""
        A = self.jacobian(T_odom_base)
        return self.T_map_odom @ T_odom_base, A @ self._covariance @ A.T

    def jacobian(self, T_odom_base: SE2) -> np.ndarray:
        """Return d(error at ``T_odom_base``) / d(error at the reference), 3x3."""
        here, there = self.T_map_odom @ self._reference, self.T_map_odom @ T_odom_base
        return transport(np.array([there.x - here.x, there.y - here.y]))

    def move(self, T_odom_base: SE2, noise: np.ndarray) -> None:
        """Make ``T_odom_base`` the reference; ``noise`` (3x3, map frame) is what odometry added on the way."""
        A = self.jacobian(T_odom_base)
        self._covariance = A @ self._covariance @ A.T + noise
        self._reference = T_odom_base

    def pose_innovation(self, T_odom_base: SE2, T_map_base: SE2) -> tuple[np.ndarray, np.ndarray]:
        """Return (residual (3,), Jacobian (3, 3)) of a measured ``T_map_base`` at an odometry pose."""
        expected = self.T_map_odom @ T_odom_base
        residual = T_map_base.vector() - expected.vector()
        residual[2] = wrap_angle(residual[2])
        return residual, self.jacobian(T_odom_base)

    def point_innovation(
        self, T_odom_base: SE2, lever_arm: np.ndarray, position: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (residual (2,), Jacobian (2, 3)) of the measured map position of a point fixed to the vehicle.

        ``lever_arm`` is that point in base_link (2,), ``position`` where it was measured (2,), in metres.
        """
        expected = self.T_map_odom @ T_odom_base
        arm = expected.rotation() @ lever_arm
        residual = position - np.array([expected.x, expected.y]) - arm
        return residual, transport(arm)[:2] @ self.jacobian(T_odom_base)

    def heading_innovation(self, T_odom_base: SE2, yaw: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (residual (1,), Jacobian (1, 3)) of a measured heading (rad) in the map at an odometry pose."""
        expected = self.T_map_odom @ T_odom_base
        return np.array([wrap_angle(yaw - expected.yaw)]), np.array([[0.0, 0.0, 1.0]])

    def innovation_covariance(self, jacobian: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the covariance that a residual should have, given the measurement's ``noise``."""
        return jacobian @ self._covariance @ jacobian.T + noise

    def correct_weakly(
        self,
        residual: np.ndarray,
        jacobian: np.ndarray,
        noise: np.ndarray,
        *,
        gap: float,
        correlation_time: float,
    ) -> float:
        """Take in a measurement whose errors persist, and which may be plainly wrong.

        Args:
            residual: (n,), as of the innovations above.
            jacobian: (n, 3).
            noise: (n, n), of one measurement.
            gap: seconds since the last such measurement.
            correlation_time: seconds for which its errors stay the same.

        Returns:
            The squared Mahalanobis distance over its 99 % bound. From 1 on the measurement contradicts the pose, and
            its noise was enlarged until it no longer did.

        """
        S = self.innovation_covariance(jacobian, noise)
        contradiction = float(residual @ np.linalg.solve(S, residual)) / _CHI2_99[len(residual)]
        self.correct(residual, jacobian, noise * max(1.0, contradiction) * correlation_factor(gap, correlation_time))
        return contradiction

    def correct(self, residual: np.ndarray, jacobian: np.ndarray, noise: np.ndarray) -> None:
        """Take a measurement in: the Kalman update, in Joseph's form."""
        S = self.innovation_covariance(jacobian, noise)
        K = np.linalg.solve(S, jacobian @ self._covariance).T
        dx, dy, dyaw = K @ residual
        base = self.T_map_odom @ self._reference
        corrected = SE2(float(base.x + dx), float(base.y + dy), float(wrap_angle(base.yaw + dyaw)))
        self.T_map_odom = corrected @ self._reference.inverse()
        rest = np.eye(3) - K @ jacobian
        covariance = rest @ self._covariance @ rest.T + K @ noise @ K.T
        self._covariance = (covariance + covariance.T) / 2
