"""Camera localization against satellite imagery, for ROS 2.

Conventions (shared by every room):

- ``T_a_b`` maps coordinates in frame b into frame a; ``T_map_base`` is the vehicle's pose in the map.
- ``map`` is ENU: metres east and north of a WGS84 datum. Yaw is counter-clockwise from east, in radians.
- ``base_link`` is x forward, y left, z up (REP-103). Camera optical frames are x right, y down, z forward.
- Pixel (0, 0) is the centre of the top-left pixel. Images are RGB uint8 (H, W, 3) at every boundary.
- Stamps are integer nanoseconds, exactly those of the message or file they came from.
"""

__version__ = "0.1.0"
