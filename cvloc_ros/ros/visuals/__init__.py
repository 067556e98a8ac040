"""What people look at in RViz, Foxglove and Lichtblick, made in threads of its own and only while somebody looks."""

from cvloc_ros.ros.visuals.visuals import Visuals

__all__ = ["Visuals"]
