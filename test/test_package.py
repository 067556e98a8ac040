"""The repository as a ROS package, as a Python package, and what its files promise one another."""

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

import cvloc_ros

ROOT = Path(__file__).resolve().parents[1]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **{"timeout": 120, **options})


def load(path):
    spec = spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


needs_colcon = pytest.mark.skipif(find_spec("colcon_core") is None, reason="colcon is not installed: make setup")


@needs_colcon
def test_colcon_sees_a_ros_package():
    result = run(sys.executable, "-m", "colcon", "list", "--base-paths", str(ROOT))
    assert result.stdout.split() == ["cvloc_ros", str(ROOT), "(ros.ament_python)"], result.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An installation by colcon."""
    folder = tmp_path_factory.mktemp("workspace")
    result = run(
        sys.executable, "-m", "colcon", "--log-base", str(folder / "log"), "build", "--base-paths", str(ROOT),
        "--build-base", str(folder / "build"), "--install-base", str(folder / "install"),
        cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "install" / "cvloc_ros"


DATA_FILES = (
    ("launch", "*.launch.py"),
    ("config", "*"),
    ("rviz", "*.rviz"),
    ("doc", "*.md"),
    (".", "package.xml"),
)


@needs_colcon
def test_colcon_installs_what_ros_looks_for(installed):
    share = installed / "share" / "cvloc_ros"
    for folder, pattern in DATA_FILES:
        assert (
            {p.name for p in (share / folder).glob(pattern)} == {p.name for p in (ROOT / folder).glob(pattern)} != set()
        )
    assert (installed / "share/ament_index/resource_index/packages/cvloc_ros").exists()
    packages = next((installed / "lib").glob("python*/site-packages/cvloc_ros"))
    weights = {path.name for path in (packages / "models/weights").glob("*")}
    assert weights == {path.name for path in (ROOT / "cvloc_ros/models/weights").glob("*")}


@needs_colcon
@pytest.mark.parametrize("executable", ["cvloc", "localizer"])
def test_installed_executables_run_from_where_ros2_run_finds_them(installed, executable, tmp_path):
    path = installed / "lib" / "cvloc_ros" / executable
    assert path.read_text().startswith("#!/usr/bin/env python3\n"), "a virtual environment would not be honoured"
    packages = next((installed / "lib").glob("python*/site-packages"))
    environment = {**os.environ, "PYTHONPATH": str(packages), "ROS_LOG_DIR": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    if executable == "cvloc":
        result = run(str(path), "--version", env=environment, cwd=tmp_path)
        assert result.stdout.strip() == cvloc_ros.__version__, result.stderr
    elif find_spec("rclpy"):
        result = run(str(path), "--ros-args", "-p", "imagry:=x", env=environment, cwd=tmp_path)
        assert "did you mean imagery?" in result.stderr


def test_wheel_has_what_ros_looks_for(tmp_path):
    build = "pip wheel --quiet --no-deps --no-build-isolation"
    sources = tmp_path / "sources"  # pip builds in the folder that it is given
    sources.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "resource", "cvloc_ros", "launch", "config",
                 "rviz", "doc"):  # fmt: skip
        (sources / name).symlink_to(ROOT / name)
    result = run(sys.executable, "-m", *build.split(), "--wheel-dir", str(tmp_path), str(sources))
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    for folder, pattern in DATA_FILES:
        for path in (ROOT / folder).glob(pattern):
            assert any(f.endswith(f"data/share/cvloc_ros/{path.relative_to(ROOT)}") for f in files), path


def test_one_version_everywhere():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.attrib["format"] == "3"
    version = manifest.findtext("version")
    assert version == cvloc_ros.__version__
    assert f'version="{version}"' in (ROOT / "setup.py").read_text()


def test_manifest_names_the_message_packages_that_are_used():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest.findall("exec_depend")}
    used = set()
    for path in (ROOT / "cvloc_ros" / "ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            used |= {name.partition(".")[0] for name in names}
    used = {name for name in used if name.endswith(("_msgs", "_srvs", "_interfaces")) or name in ("rclpy", "tf2_ros")}
    assert used <= declared


def test_console_scripts_exist():
    for target in ("cvloc_ros.cli.main:main", "cvloc_ros.ros.node:main", "cvloc_ros.ros.ekf_restarter:main"):
        module, function = target.split(":")
        assert target in (ROOT / "setup.py").read_text()
        path = ROOT / (module.replace(".", "/") + ".py")
        assert function in {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}


def test_parameter_file_and_reference_pages_are_those_of_the_code():
    tool = load(ROOT / "tools" / "write_parameter_file.py")
    for path, content in tool.documents().items():
        assert path.read_text() == content, f"{path} is stale; run: python tools/write_parameter_file.py"


def test_parameter_file_has_declared_names_and_their_defaults():
    pytest.importorskip("rclpy")
    from cvloc_ros.ros.config import NodeConfig
    from cvloc_ros.ros.parameters import settings

    (content,) = yaml.safe_load((ROOT / "config" / "localizer.yaml").read_text()).values()
    flat = {}

    def flatten(group, prefix):
        for name, value in group.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    flatten(content["ros__parameters"], "")
    declared = {name: setting.default for name, setting in settings(NodeConfig)}
    assert declared.pop("datum") == ()  # a comment in the file: YAML has no empty list of doubles
    assert flat == declared
    assert all(type(flat[name]) is type(declared[name]) for name in flat), "ROS would refuse the type"


def test_every_parameter_is_described():
    pytest.importorskip("rclpy")
    from cvloc_ros.ros.config import NodeConfig
    from cvloc_ros.ros.parameters import descriptor, settings

    for name, setting in settings(NodeConfig):
        about = descriptor(setting)
        assert len(about.description) > 10, name
        if isinstance(setting.default, float):
            assert about.floating_point_range, f"{name} has no range"


def test_rviz_shows_the_topics_that_are_published():
    content = yaml.safe_load((ROOT / "rviz" / "cvloc.rviz").read_text())["Visualization Manager"]
    assert content["Global Options"]["Fixed Frame"] == "map"
    topics = {d["Topic"]["Value"] for d in content["Displays"] if "Topic" in d}
    assert {"/cvloc/pose", "/cvloc/odometry", "/cvloc/path", "/cvloc/prior", "/cvloc/debug/overlay"} <= topics


def test_shared_memory_profile_holds_an_image():
    root = ElementTree.parse(ROOT / "config" / "fastdds_shared_memory.xml").getroot()
    name = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
    largest = int(root.find(f".//{name}maxMessageSize").text)
    segment = int(root.find(f".//{name}segment_size").text)
    assert 1920 * 1200 * 3 < largest <= segment


def test_generated_tf2_msgs_is_the_official_type():
    pytest.importorskip("tf2_msgs")
    tool = load(ROOT / "tools" / "build_tf2_msgs.py")
    described = tool.SHARE / "tf2_msgs" / "msg" / "TFMessage.json"
    if not described.exists():
        pytest.skip("tf2_msgs comes from a ROS installation")
    assert tool.OFFICIAL_HASH in described.read_text()
    assert tool.works()


def test_help_needs_neither_torch_nor_ros():
    heavy = ("torch", "rclpy", "rasterio", "matplotlib", "rosbags")
    program = f"import sys, cvloc_ros.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert run(sys.executable, "-c", program).stdout.strip() == "[]"


def test_every_command_has_a_manual():
    from typer.testing import CliRunner

    from cvloc_ros.cli.main import COMMANDS, app

    for command in COMMANDS:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0 and len(result.output) > 300, command


def test_doctor_finds_this_machine_in_order():
    result = run(sys.executable, "-m", "cvloc_ros.cli.main", "doctor", env={**os.environ, "COLUMNS": "200"})
    assert "torch" in result.stdout and "Traceback" not in result.stderr
    for line in result.stdout.splitlines():
        if line.startswith("bad"):
            raise AssertionError(line)


def test_errors_are_one_line_unless_the_traceback_is_wanted(tmp_path):
    command = [sys.executable, "-m", "cvloc_ros.cli.main", "play", str(tmp_path / "none")]
    if not find_spec("rclpy"):
        pytest.skip("play needs ROS 2")
    result = run(*command)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    result = run(*command[:3], "--traceback", *command[3:])
    assert "Traceback" in result.stderr
