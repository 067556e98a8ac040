"""The documentation says what the code does: links, arguments, options, parameters, topics and messages exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "doc").glob("*.md"))}
ARGUMENT = re.compile(r"(?<![\w:/])(\w+):=")


def commands(text):
    """Return the command lines of a page's code blocks and of its inline code."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return lines + re.findall(r"`((?:ros2|cvloc|make) [^`]+)`", text)


@cache
def strings_of_the_code():
    """Return all text that the package can say: literals, with a gap where something is filled in."""
    said = []
    for path in [*ROOT.glob("cvloc_ros/**/*.py"), *ROOT.glob("launch/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                said.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return "\n".join(said)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if not target.startswith("http"):
            assert (ROOT / "doc" / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_launch_commands_have_arguments_that_are_declared(page):
    declared = {
        path.name: set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', path.read_text()))
        for path in (ROOT / "launch").glob("*.launch.py")
    }
    declared["replay.launch.py"] |= declared["localize.launch.py"]  # which it includes
    for line in commands(PAGES[page]):
        match = re.match(r"ros2 launch cvloc_ros (\S+)", line)
        if match:
            assert set(ARGUMENT.findall(line)) <= declared[match[1]], line
    everywhere = set().union(*declared.values()) | {"name", "role"}
    assert set(ARGUMENT.findall(PAGES[page])) <= everywhere


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page):
    import typer

    from cvloc_ros.cli.main import app

    known = typer.main.get_command(app).commands
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(PAGES[page]):
        match = re.match(r"(?:\S*/)?cvloc (\w+)", line)
        if match:
            options = {name for parameter in known[match[1]].params for name in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[\w-]+", line)) <= options, line
        if line.startswith("make "):
            assert line.split()[1] in targets, line


@pytest.mark.parametrize("page", PAGES)
def test_parameters_and_topics_exist(page):
    pytest.importorskip("rclpy")
    from cvloc_ros.ros.config import NodeConfig
    from cvloc_ros.ros.parameters import settings

    known = {name for name, _ in settings(NodeConfig)}
    groups = "|".join({name.partition(".")[0] for name in known if "." in name})
    for name in re.findall(rf"`((?:{groups})\.[a-z_]+)`", PAGES[page]):
        assert name in known, name
    code = strings_of_the_code()
    for name in re.findall(r"`(~/[\w/]+)`", PAGES[page]):
        assert f"{name}\n" in code, name


def test_messages_are_those_of_the_code():
    """A quoted message stands in the code, word for word; … stands for what is filled in."""
    code = strings_of_the_code()
    quoted = re.findall(r"^\| “(.+?)” \|", PAGES["troubleshooting.md"], re.MULTILINE)
    assert len(quoted) > 30
    for message in quoted:
        for part in re.split(r"\s*…\s*", message):
            assert part in code, message
