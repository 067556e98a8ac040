"""The ROS 2 side: the node, its parameters and messages, the bag player. The only room that imports rclpy.

`node` is the entry: it builds a `pipeline` of `inputs`, a `worker` and `outputs` around a `LocalizationSession`, with
`parameters` made from `config`, and `health` for what goes wrong. `player` plays bags; `live_run` does it all at once.
"""
