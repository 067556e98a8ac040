"""Generate, compile and install tf2_msgs into the virtual environment that runs this file.

The ROS 2 wheels of PyPI lack tf2_msgs, whose one message everything around /tf needs. They do carry the rosidl
generators, so the message's type support is made here exactly as a ROS build would: interface definition, type hash,
C structures, DDS and introspection type support, Python bindings. It takes a few seconds and needs g++ and Python.h.

    python tools/build_tf2_msgs.py            # does nothing when tf2_msgs is already there and right
    python tools/build_tf2_msgs.py --force

The result is refused unless its type hash equals that of the official tf2_msgs: peers would not talk to it otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "tf2_msgs"
DEFINITION = "geometry_msgs/TransformStamped[] transforms\n"
OFFICIAL_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
DEPENDENCIES = ("builtin_interfaces", "std_msgs", "geometry_msgs")
MANIFEST = f"""<?xml version="1.0"?>
<package format="3">
  <name>{PACKAGE}</name>
  <version>0.36.0</version>
  <description>tf2_msgs/TFMessage, generated into a virtual environment.</description>
  <maintainer email="noreply@ros.org">generated</maintainer>
  <license>BSD</license>
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""

PREFIX = Path(sys.prefix)
SHARE = PREFIX / "share"
LIBRARIES = PREFIX / "lib"
SITE = Path(sysconfig.get_path("platlib"))

# A generator writes C or C++ sources that become one library, lib<package>__<generator>.so. In this order each
# library links against those before it.
STRUCTURES = "rosidl_generator_c"
DDS = "rosidl_typesupport_fastrtps_c"
INTROSPECTION = "rosidl_typesupport_introspection_c"
DISPATCH = "rosidl_typesupport_c"
PYTHON = "rosidl_generator_py"
GENERATORS = (STRUCTURES, DDS, INTROSPECTION, DISPATCH, PYTHON)
RUNTIME = (
    "rosidl_runtime_c",
    DISPATCH,
    DDS,
    "rosidl_typesupport_fastrtps_cpp",
    INTROSPECTION,
    "fastcdr",
    "rmw",
    "rcutils",
)

CHECK = f"""
from rclpy.serialization import deserialize_message, serialize_message
from geometry_msgs.msg import TransformStamped
from {PACKAGE}.msg import TFMessage
edge = TransformStamped(child_frame_id="base_link")
assert deserialize_message(serialize_message(TFMessage(transforms=[edge])), TFMessage).transforms == [edge]
"""


class BuildError(RuntimeError):
    """What was missing or went wrong, and what to do about it."""


@dataclass(frozen=True)
class Workspace:
    """Where the intermediate files go: the definition, its type description, and one folder per generator."""

    root: Path

    @property
    def definition(self) -> Path:
        """Return the folder that holds msg/TFMessage.msg and .idl."""
        return self.root / PACKAGE

    @property
    def description(self) -> Path:
        """Return the folder of the type description (JSON) and its hash."""
        return self.root / "description" / PACKAGE

    @property
    def libraries(self) -> Path:
        """Return the folder where the libraries are linked."""
        return self.root / "lib"

    def sources(self, generator: str) -> Path:
        """Return the folder that ``generator`` writes into; its parent is the include directory."""
        return self.root / generator / PACKAGE

    def request(self, generator: str, output: Path, **extra: object) -> str:
        """Write the JSON file that tells a generator what to do, and return its path."""
        dependencies = [f"{name}:{idl}" for name in DEPENDENCIES for idl in sorted((SHARE / name).rglob("*.idl"))]
        content = {
            "package_name": PACKAGE,
            "output_dir": str(output),
            "template_dir": str(SHARE / generator / "resource"),
            "idl_tuples": [f"{self.definition}:msg/TFMessage.idl"],
            "ros_interface_dependencies": dependencies,
            "target_dependencies": [],
            **extra,
        }
        path = self.root / f"{generator}.json"
        path.write_text(json.dumps(content))
        return str(path)


def generate(work: Workspace) -> None:
    """Write all sources; raise BuildError if the type hash is not the official one."""
    try:
        import rosidl_adapter.msg
        import rosidl_generator_c
        import rosidl_generator_py
        import rosidl_generator_type_description
        import rosidl_typesupport_c
        import rosidl_typesupport_fastrtps_c
        import rosidl_typesupport_introspection_c
    except ImportError as error:
        raise BuildError(f"the rosidl generators are missing ({error}): install cvloc_ros[ros] first") from None

    message = work.definition / "msg" / "TFMessage.msg"
    message.parent.mkdir(parents=True)
    message.write_text(DEFINITION)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every file
        rosidl_adapter.msg.convert_msg_to_idl(work.definition, PACKAGE, Path("msg/TFMessage.msg"), message.parent)

    include_paths = [f"{name}:{SHARE / name}" for name in DEPENDENCIES]
    description = work.request("rosidl_generator_type_description", work.description, include_paths=include_paths)
    rosidl_generator_type_description.generate_type_hash(description)
    described = work.description / "msg" / "TFMessage.json"
    type_hash = {entry["type_name"]: entry["hash_string"] for entry in json.loads(described.read_text())["type_hashes"]}
    if type_hash[f"{PACKAGE}/msg/TFMessage"] != OFFICIAL_HASH:
        raise BuildError(
            f"expected the type hash {OFFICIAL_HASH}, got {type_hash[f'{PACKAGE}/msg/TFMessage']}: the installed "
            "geometry_msgs is not the one of ROS 2 Jazzy; install the versions named in setup.py"
        )

    run = {
        STRUCTURES: rosidl_generator_c.generate_c,
        DDS: rosidl_typesupport_fastrtps_c.generate_typesupport_fastrtps_c,
        INTROSPECTION: rosidl_typesupport_introspection_c.generate_c,
        DISPATCH: lambda request: rosidl_typesupport_c.generate_c(request, [DDS, INTROSPECTION]),
        PYTHON: lambda request: rosidl_generator_py.generate_py(request, [DISPATCH]),
    }
    for generator in GENERATORS:
        output = work.sources(generator)
        tuples = [f"msg/TFMessage.idl:{described}"]
        run[generator](work.request(generator, output, type_description_tuples=tuples))
        for template in (SHARE / generator / "resource").glob("*visibility_control.h.in"):
            text = template.read_text().replace("@PROJECT_NAME_UPPER@", PACKAGE.upper())
            (output / "msg" / template.stem).write_text(text.replace("@PROJECT_NAME@", PACKAGE))
    (work.sources(PYTHON) / "__init__.py").touch()


def compile_and_link(work: Workspace) -> None:
    """Compile the sources side by side, then link one library per generator and the Python extension."""
    import numpy

    headers = PREFIX / "include"
    python_headers = Path(sysconfig.get_path("include"))
    for needed, advice in (
        (shutil.which("g++"), "g++ is missing: install gcc and g++ (Debian: apt install g++)"),
        ((python_headers / "Python.h").exists(), "Python.h is missing: install python3-dev"),
    ):
        if not needed:
            raise BuildError(advice)
    include = [work.sources(generator).parent for generator in GENERATORS]
    include += [headers, *(entry for entry in sorted(headers.iterdir()) if entry.is_dir())]
    include += [python_headers, Path(numpy.get_include())]
    flags = ["-O1", "-fPIC", "-w", *(f"-I{path}" for path in include)]

    def compile_one(source: Path) -> Path:
        compiled = source.with_name(source.name + ".o")
        _run(["g++" if source.suffix == ".cpp" else "gcc", *flags, "-c", str(source), "-o", str(compiled)])
        return compiled

    def link(output: Path, objects: list[Path], libraries: list[str], rpath: str) -> None:
        names = [f"-l{name}" for name in (*libraries, *RUNTIME)]
        names += [f"-l{package}__{generator}" for package in DEPENDENCIES for generator in GENERATORS]
        search = [f"-L{work.libraries}", f"-L{LIBRARIES}", "-Wl,--as-needed", f"-Wl,-rpath,{rpath}"]
        _run(["g++", "-shared", "-o", str(output), *map(str, objects), *search, *names])

    # The entry points (*.ep.*) are one Python extension per type support; only the dispatching one is used.
    extension = next(work.sources(PYTHON).glob(f"*.ep.{DISPATCH}.c"))
    sources = {
        generator: [
            p for p in work.sources(generator).rglob("*") if p.suffix in (".c", ".cpp") and ".ep." not in p.name
        ]
        for generator in GENERATORS
    }
    everything = [extension, *(source for group in sources.values() for source in group)]
    with ThreadPoolExecutor() as pool:
        objects = dict(zip(everything, pool.map(compile_one, everything), strict=True))
    work.libraries.mkdir()
    linked: list[str] = []
    for generator in GENERATORS:
        name = f"{PACKAGE}__{generator}"
        group = [objects[source] for source in sources[generator]]
        link(work.libraries / f"lib{name}.so", group, linked, "$ORIGIN")
        linked.append(name)
    suffix = f"{PACKAGE}_s__{DISPATCH}.so"
    to_libraries = Path(*[".."] * len(SITE.relative_to(LIBRARIES).parts), "..")
    link(work.sources(PYTHON) / suffix, [objects[extension]], linked, f"$ORIGIN/{to_libraries}")


def install(work: Workspace) -> None:
    """Copy libraries, headers, the Python package and the ament index entries to where the wheels keep theirs."""
    for library in work.libraries.iterdir():
        shutil.copy(library, LIBRARIES)
    sources_only = shutil.ignore_patterns("*.c", "*.cpp", "*.o")
    shutil.rmtree(SITE / PACKAGE, ignore_errors=True)
    shutil.copytree(work.sources(PYTHON), SITE / PACKAGE, ignore=sources_only)
    for generator in GENERATORS[:-1]:
        target = PREFIX / "include" / PACKAGE / PACKAGE
        shutil.copytree(work.sources(generator), target, ignore=sources_only, dirs_exist_ok=True)
    for folder in (work.definition, work.description):
        shutil.copytree(folder, SHARE / PACKAGE, dirs_exist_ok=True)
    (SHARE / PACKAGE / "package.xml").write_text(MANIFEST)
    index = SHARE / "ament_index" / "resource_index"
    (index / "packages" / PACKAGE).touch()
    files = sorted(path.relative_to(SHARE / PACKAGE) for path in (SHARE / PACKAGE / "msg").iterdir())
    (index / "rosidl_interfaces" / PACKAGE).write_text("".join(f"{path}\n" for path in files))


def works() -> bool:
    """Return whether a fresh interpreter can (de)serialize tf2_msgs/TFMessage, whoever installed it."""
    return subprocess.run([sys.executable, "-c", CHECK], capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(command)}\nfailed:\n{result.stderr}")


def main() -> None:
    """Build and install tf2_msgs unless it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--force", action="store_true", help="build even if tf2_msgs already works")
    arguments = parser.parse_args()
    if works() and not arguments.force:
        print("tf2_msgs is there already")
        return
    if sys.prefix == sys.base_prefix:
        raise BuildError("run this with the Python of a virtual environment: it installs into it")
    with tempfile.TemporaryDirectory(prefix=f"{PACKAGE}-") as folder:
        work = Workspace(Path(folder))
        generate(work)
        compile_and_link(work)
        install(work)
    if not works():
        raise BuildError(f"tf2_msgs was built but does not load; try: {sys.executable} -c {CHECK!r}")
    print(f"tf2_msgs installed into {PREFIX}")


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        sys.exit(f"build_tf2_msgs: {error}")
