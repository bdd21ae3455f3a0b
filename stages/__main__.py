"""All scripts behind one command: `python -m stages sample …`, and after `pip install -e .` also `nanogpt sample …`."""

import ast
import importlib
import sys
from pathlib import Path

from nanogpt.runtime import process

SCRIPTS = {path.stem: path for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}


def main() -> None:
    """Run the script that is named first, with the flags after it; without one, list them all."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else "--help"
    if name in ("_h", "__help", "--help"):
        print("usage: nanogpt SCRIPT [flags]; `nanogpt SCRIPT --help` lists its flags\n")
        for script, path in SCRIPTS.items():
            print(f"  {script:<14} {ast.get_docstring(ast.parse(path.read_text('utf-8')))}")
        return
    if name not in SCRIPTS:
        sys.exit(f"error: there is no script {sys.argv[1]}; choose one of {', '.join(SCRIPTS)}")
    sys.argv = [str(SCRIPTS[name]), *sys.argv[2:]]
    process.run_stage(importlib.import_module(f"stages.{name}").main)


if __name__ == "__main__":
    main()
