"""Everything outside of ros/ works where no ROS is installed."""

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root in ("rclpy", "cv_bridge", "tf2_ros") or root.endswith(("_msgs", "_srvs", "_interfaces")):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, NoRos())
import cvloc_ros
names = [module.name for module in pkgutil.walk_packages(cvloc_ros.__path__, "cvloc_ros.")]
names = [name for name in names if not name.startswith("cvloc_ros.ros.") and not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
try:
    importlib.import_module("cvloc_ros.ros.node")
except ModuleNotFoundError:
    print("blocked")
"""


def test_every_module_outside_ros_imports_without_it():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    count, blocked = result.stdout.split()
    assert int(count) > 30
    assert blocked == "blocked", "the import hook blocks nothing"
