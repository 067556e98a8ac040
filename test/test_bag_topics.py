"""Which topic of a bag is which, from the topics' names and types alone."""

import pytest

from cvloc_ros.datasets.bag_topics import FIX, ODOMETRY, BagError, choose_topics


def test_what_is_in_the_map_is_no_odometry():
    types = {"/i": "sensor_msgs/msg/Image", "/c": "sensor_msgs/msg/CameraInfo"}
    types |= {"/odom": ODOMETRY, "/global": ODOMETRY, "/x/ground_truth": ODOMETRY, "/fix": FIX, "/x/datum": FIX}
    chosen = choose_topics(types, {}, frame_of=lambda topic: "map" if topic == "/global" else "odom")
    assert chosen == {
        **dict(image="/i", camera_info="/c", fix="/fix", odom="/odom"),
        **dict(ground_truth="/x/ground_truth", datum="/x/datum"),
    }


def test_raw_and_compressed_are_one_stream_with_its_own_camera_info():
    types = {"/a/image": "sensor_msgs/msg/Image", "/a/image/compressed": "sensor_msgs/msg/CompressedImage"}
    types |= {"/a/camera_info": "sensor_msgs/msg/CameraInfo", "/b/camera_info": "sensor_msgs/msg/CameraInfo"}
    types |= {"/odom": ODOMETRY, "/a/image/compressedDepth": "sensor_msgs/msg/CompressedImage"}
    chosen = choose_topics(types, {}, frame_of=lambda topic: "odom")
    assert (chosen["image"], chosen["camera_info"]) == ("/a/image", "/a/camera_info")
    chosen = choose_topics(types, {"image": "/a/image/compressed"}, frame_of=lambda topic: "odom")
    assert (chosen["image"], chosen["camera_info"]) == ("/a/image/compressed", "/a/camera_info")


def test_several_are_listed():
    types = {"/l/i": "sensor_msgs/msg/Image", "/r/i": "sensor_msgs/msg/Image", "/odom": ODOMETRY}
    with pytest.raises(BagError, match=r"one image topic, got 2: /l/i, /r/i"):
        choose_topics(types, {}, frame_of=lambda topic: "odom")
