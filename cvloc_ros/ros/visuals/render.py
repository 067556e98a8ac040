"""Draw a scene from above with matplotlib: what RViz would show, for the README and where there is no RViz."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from visualization_msgs.msg import Marker

from cvloc_ros.datasets.message_reading import pose_matrix
from cvloc_ros.evaluation.drawing import SHADE
from cvloc_ros.ros.visuals.cloud import read_cloud
from cvloc_ros.ros.visuals.scene import Scene, draw_textures

_INCHES, _DPI = 9.0, 110
_BACKGROUND = "#{:02x}{:02x}{:02x}".format(*SHADE)
_BEV_DOT = 0.3  # metres
_PATH_COLOR = (0.4, 0.7, 1.0)


def draw_scene(scene: Scene, *, x: float, y: float, radius: float) -> np.ndarray:
    """Return an RGB uint8 picture (990, 990, 3) of all within ``radius`` metres of (x, y), north up."""
    figure = Figure(figsize=(_INCHES, _INCHES), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(x - radius, x + radius), ylim=(y - radius, y + radius), facecolor=_BACKGROUND)
    axes.set_axis_off()
    figure.set_facecolor(_BACKGROUND)
    _draw_tiles(axes, scene, x, y, radius)
    if "bev" in scene.clouds:
        points, colors = read_cloud(scene.clouds["bev"])
        _draw_dots(axes, points[:, :2], colors / 255, size=_BEV_DOT, zorder=1, shape="s")
    if scene.path is not None:
        track = np.array([[pose.pose.position.x, pose.pose.position.y] for pose in scene.path.poses]).reshape(-1, 2)
        axes.plot(track[:, 0], track[:, 1], color=_PATH_COLOR, linewidth=3, zorder=2)
    for order, marker in enumerate(sorted(scene.all_markers(), key=_height)):
        if not marker.texture_resource:
            _draw_marker(axes, marker, zorder=3 + order)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_tiles(axes: Axes, scene: Scene, x: float, y: float, radius: float) -> None:
    size = round(_INCHES * _DPI)
    cell = 2 * radius / size
    image = draw_textures(scene.all_markers(), west=x - radius, north=y + radius, rows=size, cols=size, cell=cell)
    axes.imshow(image, extent=(x - radius, x + radius, y - radius, y + radius), zorder=0)


def _draw_marker(axes: Axes, marker: Marker, *, zorder: int) -> None:
    places = _places(marker)
    colors = np.array([(c.r, c.g, c.b, c.a) for c in (marker.colors or [marker.color])])
    width = marker.scale.x * _points_a_metre(axes)
    if marker.type == Marker.LINE_STRIP:
        axes.plot(places[:, 0], places[:, 1], color=colors[0], linewidth=width, zorder=zorder)
    elif marker.type == Marker.LINE_LIST:
        lines = LineCollection(list(places.reshape(-1, 2, 2)), colors=colors[::2], linewidths=width, zorder=zorder)
        axes.add_collection(lines, autolim=False)
    elif marker.type == Marker.POINTS:
        _draw_dots(axes, places, colors, size=marker.scale.x, zorder=zorder)
    elif marker.type == Marker.TRIANGLE_LIST:
        axes.add_collection(
            PolyCollection(list(places.reshape(-1, 3, 2)), facecolors=colors[::3], zorder=zorder), autolim=False
        )
    elif marker.type == Marker.TEXT_VIEW_FACING:
        position = marker.pose.position
        axes.text(position.x, position.y, marker.text, color=colors[0], ha="center", va="center", zorder=zorder,
                  fontsize=marker.scale.z * _points_a_metre(axes), clip_on=True)  # fmt: skip


def _draw_dots(
    axes: Axes, places: np.ndarray, colors: np.ndarray, *, size: float, zorder: int, shape: str = "o"
) -> None:
    """Draw dots of a size in metres."""
    x, y = places.T
    area = (size * _points_a_metre(axes)) ** 2
    axes.scatter(x, y, area, c=colors, marker=shape, linewidths=0, zorder=zorder)


def _points_a_metre(axes: Axes) -> float:
    return 72 * _INCHES / float(np.ptp(axes.get_xlim()))


def _places(marker: Marker) -> np.ndarray:
    """Return a marker's points (N, 2) in the map."""
    points = np.array([[point.x, point.y, point.z, 1.0] for point in marker.points]).reshape(-1, 4)
    return (points @ pose_matrix(marker.pose).T)[:, :2]


def _height(marker: Marker) -> float:
    return max((point.z for point in marker.points), default=marker.pose.position.z)
