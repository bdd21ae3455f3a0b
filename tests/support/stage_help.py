"""The flags of all scripts as Markdown: `python tests/support/stage_help.py` writes them into docs/stages.md."""

import importlib
import sys
from pathlib import Path

from imports import ROOT

MARKER = "## All flags"
PAGE = ROOT / "docs" / "stages.md"
SCRIPTS = sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py"))


class _Found(Exception):
    """Carries the parser of a script out of its main."""


def parser_of(script: str):
    """The command line of a script, which is not run."""
    from nanogpt.runtime.cli import Flags

    def stop(self, args=None, namespace=None):
        raise _Found(self)

    original, Flags.parse_args = Flags.parse_args, stop
    try:
        importlib.import_module(f"stages.{script}").main()
    except _Found as found:
        return found.args[0]
    finally:
        Flags.parse_args = original
    raise AssertionError(f"stages/{script}.py reads no flags")


def all_flags() -> str:
    """A section for each script: what it does, and its flags."""
    sections = []
    for script in SCRIPTS:
        parser = parser_of(script)
        lines = [f"### {script}", "", parser.description, ""]
        actions = [action for action in parser._actions if action.dest != "help"]
        lines += ["| flag | what |", "|---|---|"] if actions else ["It takes no flags."]
        for action in actions:
            name = (action.option_strings or [action.dest])[0]
            value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
            takes = f" {value}" if action.option_strings and action.nargs != 0 else ""
            choices = f" ({', '.join(action.choices)})" if not action.option_strings and action.choices else ""
            text = ((action.help or "") + choices) % {"default": action.default}
            escaped = [part.replace("|", "\\|") for part in (name + takes, text)]
            lines.append(f"| `{escaped[0]}` | {escaped[1]} |")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def page() -> str:
    """docs/stages.md as it ought to be."""
    written = PAGE.read_text("utf-8").partition(MARKER)[0].rstrip("\n")
    return f"{written}\n\n{MARKER}\n\nWritten by `make docs` from the scripts themselves.\n\n{all_flags()}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    Path(PAGE).write_text(page(), "utf-8")
