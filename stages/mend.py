"""Put right what DVC needs: its files that a kill left half written, and the page that it draws plots in."""

from nanogpt.runtime import process
from nanogpt.runtime.cli import Flags


def main() -> None:
    """Repair, print one line for each file repaired, and write the page of plots where there is none."""
    Flags(__doc__).parse_args()
    from nanogpt.report.plots_page import write_plots_page
    from nanogpt.runtime.dvc_repair import repair

    write_plots_page()
    print("\n".join(repair()) or "no file of DVC is damaged")


if __name__ == "__main__":
    process.run_stage(main)
