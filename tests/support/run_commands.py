"""Run stages one after another in FOLDER, each as a fork of this process; the commands are a JSON list on stdin.

Prints a line of JSON for each: [status, stdout, stderr].
"""

import json
import sys
from pathlib import Path

from forked import run

if __name__ == "__main__":
    for command in json.load(sys.stdin):
        done = run(Path(sys.argv[1]), command)
        print(json.dumps([done.status, done.out, done.err]), flush=True)
