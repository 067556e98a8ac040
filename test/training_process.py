"""One process of a training, to be started alone or by torchrun: SETTINGS OUT [--resume]."""

import sys
from pathlib import Path

from cvloc_ros.training.checkpoint import Stopped
from cvloc_ros.training.methods import read_config
from cvloc_ros.training.train import train

if __name__ == "__main__":
    settings, out, *rest = sys.argv[1:]
    try:
        train(read_config(Path(settings)), Path(out), resume="--resume" in rest, report=lambda seen, row: None)
    except Stopped as stopped:
        print(stopped)
