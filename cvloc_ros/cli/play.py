"""`cvloc play`: play a bag onto ROS topics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def play(
    bag: Annotated[Path, typer.Argument(help="A rosbag2: its folder, or an .mcap or .db3 file.")],
    rate: Annotated[float, typer.Option(min=0.01, help="Seconds of the bag in a second of real time.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until interrupted.")] = False,
    start: Annotated[float, typer.Option(min=0.0, help="Seconds of the bag to leave out.")] = 0.0,
    wait_for: Annotated[
        list[str] | None, typer.Option(help="Begin when somebody subscribes to this topic; may be repeated.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.0, help="Give up waiting after so many seconds.")] = 30.0,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out this topic, e.g. /tf of another localizer; may be repeated.")
    ] = None,
) -> None:
    """Play a bag onto ROS topics, with /clock, as it was recorded.

    Messages go out byte for byte, at their time. Latched topics (/tf_static) are latched again and always come first.
    Nodes that listen should have use_sim_time set. For images on one machine, set the shared-memory profile
    (README) here and there.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from cvloc_ros.ros.player import open_player

    console = Console(highlight=False, soft_wrap=True)
    columns = TextColumn("{task.completed:6.1f} / {task.total:.1f} s"), BarColumn(), TimeRemainingColumn()
    try:
        with open_player(bag, exclude=exclude or ()) as player:
            for topic, why in player.skipped.items():
                console.print(f"not played: {topic} ({why})")
            console.print(f"{bag}: {player.duration:.1f} s on {', '.join(player.topics)}")
            player.wait_for_subscribers(wait_for or [], timeout=timeout)
            with Progress(*columns, console=console, transient=True) as progress:
                task = progress.add_task("play", total=player.duration)

                def show(seconds: float, total: float) -> None:
                    progress.update(task, completed=seconds, total=total)

                played = player.play(rate=rate, loop=loop, start=start, progress=show)
    except KeyboardInterrupt:
        console.print("stopped")
        return
    passes = f" in {played.passes} passes" if played.passes > 1 else ""
    lateness = f"at most {1e3 * played.latest:.0f} ms late"
    console.print(f"played {played.messages} messages{passes} in {played.seconds:.1f} s, {lateness}")
