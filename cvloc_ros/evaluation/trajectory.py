"""The fused track as a trajectory, scored by evo: the numbers that papers on SLAM and odometry report."""

from __future__ import annotations

import numpy as np

from cvloc_ros.evaluation.records import FrameRecord

RPE_METRES = 10.0
AIM = {"median": "2", "rmse": "3", "yaw": "1", "lateral_1m": "80 %"}
"""What a causal filter should reach on whole drives of KITTI from 20 m and 10 degrees off, its odometry not being the
truth: metres, degrees (median) and the share of frames, as tables write them."""
AIM_NAME = "fused, the aim"
AIM_START = "without GNSS, from a start up to 20 m and 10° off"
EVO_NAME = "fused, by evo"


def trajectory_metrics(frames: list[FrameRecord]) -> dict[str, float]:
    """Return the RMSE of evo's absolute (APE) and relative pose errors (RPE) of the fused poses.

    The truth and the track are in the same map: nothing is aligned. The relative errors are over `RPE_METRES` of
    driving, for all pairs of frames; they leave out an offset that lasts, and show jumps.

    Returns:
        ``ape_rmse_m``, ``ape_rmse_deg``, ``rpe_rmse_m``, ``rpe_rmse_deg``; the relative ones only of a track of that
        length, nothing without a track or without truth.

    """
    known = [(f.stamp, f.truth, f.fused) for f in frames if f.tracked and f.truth is not None and f.fused is not None]
    if len(known) < 2:
        return {}
    from evo.core.filters import FilterException  # brings pandas and more: a second that others need not wait
    from evo.core.metrics import APE, RPE, PoseRelation, StatisticsType, Unit
    from evo.core.trajectory import PoseTrajectory3D

    stamps, *tracks = zip(*known, strict=True)
    pair = tuple(
        PoseTrajectory3D(poses_se3=[pose.matrix() for pose in poses], timestamps=np.array(stamps) * 1e-9)
        for poses in tracks
    )
    metrics = {}
    for unit, relation in (("m", PoseRelation.translation_part), ("deg", PoseRelation.rotation_angle_deg)):
        absolute = APE(relation)
        relative = RPE(relation, delta=RPE_METRES, delta_unit=Unit.meters, all_pairs=True)
        absolute.process_data(pair)
        metrics[f"ape_rmse_{unit}"] = float(absolute.get_statistic(StatisticsType.rmse))
        try:
            relative.process_data(pair)
        except FilterException:  # no two frames are so far apart
            continue
        metrics[f"rpe_rmse_{unit}"] = float(relative.get_statistic(StatisticsType.rmse))
    return metrics


def in_words(metrics: dict[str, float]) -> str:
    """Return what `trajectory_metrics` gives as a line of text; empty if there is nothing."""
    words = []
    for key, name in (("ape", "APE"), ("rpe", f"RPE over {RPE_METRES:.0f} m")):
        if f"{key}_rmse_m" in metrics:
            words.append(f"{name} {metrics[f'{key}_rmse_m']:.2f} m, {metrics[f'{key}_rmse_deg']:.2f}°")
    return f"{'; '.join(words)} (RMSE)" if words else ""
