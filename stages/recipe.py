"""Write a recipe, named settings of the whole pipeline, into params.yaml; `dvc repro` goes on from there."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Write recipes/NAME.yaml into params.yaml and print what changed, or list the recipes."""
    flags = Flags(__doc__)
    flags.add_argument("name", nargs="?", metavar="NAME", help="recipe to write; leave it out to list all")
    args = flags.parse_args()
    from nanogpt.pipeline.recipe import apply_recipe, list_recipes

    if not args.name:
        for name, purpose in list_recipes().items():
            print(f"{name:24} {purpose}")
        return
    changes = apply_recipe(args.name)
    summary = f"params.yaml: {len(changes)} settings changed to those of {args.name}; next: dvc repro, or dvc exp run"
    print(*changes, f"{summary} with -S KEY=VALUE for settings of your own", sep="\n")


if __name__ == "__main__":
    process.run_stage(main)
