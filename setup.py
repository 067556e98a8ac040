"""Package metadata for pip and colcon, and the data files that a ROS installation needs."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "cvloc_ros"

REQUIRES = [
    "evo>=1.28,<2",  # trajectory metrics
    "matplotlib>=3.6,<4",
    "numpy>=1.26,<3",
    "opencv-python-headless>=4.8,<6",
    "pyproj>=3.4,<4",
    "pyyaml>=6,<7",  # calibrations of data sets, settings of launch files
    "rasterio>=1.3,<2",
    "rich>=12,<16",
    "rosbags>=0.11,<0.12",  # bags without ROS
    "safetensors>=0.4,<1",
    "torch>=2.4,<3",
    "typer>=0.12,<1",
]

# ROS 2 Jazzy as wheels (CPython 3.11 and 3.12, x86-64 Linux). They were compiled together: no ranges. Not needed, and
# not wanted, where ROS itself is installed.
ROS = [
    "ros-jazzy-rclpy[fastrtps]==7.1.6",
    "ros-diagnostic-msgs==5.3.6",
    "ros-nav-msgs==5.3.6",
    "ros-sensor-msgs==5.3.6",
    "ros-std-srvs==5.3.6",
    "ros-visualization-msgs==5.3.6",
]

TEST = [
    "pytest>=7,<10",
    "pytest-xdist>=3.5,<4",
]

DEVELOPMENT = [*TEST, "colcon-common-extensions>=0.3,<1", "mypy>=1.8,<3", "ruff>=0.6,<1", "types-pyyaml>=6,<7"]

EXPORT = ["onnx>=1.16,<2", "onnxruntime>=1.18,<2", "onnxscript>=0.5,<1"]  # `cvloc export`

TRAINING = ["lightning-fabric>=2.4,<3"]

TENSORBOARD = ["tensorboard>=2.14,<3"]  # to watch a training; without it there is log.csv

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Localizes a vehicle by matching its camera with a satellite image.",
    license="Apache-2.0",
    maintainer="cvloc_ros maintainers",
    maintainer_email="maintainers@cvloc-ros.example",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={f"{PACKAGE}.models": ["weights/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", glob("config/*")),
        (f"share/{PACKAGE}/rviz", glob("rviz/*.rviz")),
        (f"share/{PACKAGE}/doc", glob("doc/*.md") + glob("doc/*.svg")),
    ],
    install_requires=REQUIRES,
    extras_require={
        "ros": ROS,
        "dev": DEVELOPMENT,
        "train": TRAINING,
        "tensorboard": TENSORBOARD,
        "export": EXPORT,
        "test": TEST,
    },
    entry_points={
        "console_scripts": [
            "cvloc = cvloc_ros.cli.main:main",
            "localizer = cvloc_ros.ros.node:main",
            "ekf_restarter = cvloc_ros.ros.ekf_restarter:main",
        ]
    },
    zip_safe=False,
)
