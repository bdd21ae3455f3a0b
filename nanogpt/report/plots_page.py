"""The page of `dvc plots show` and `dvc plots diff`, with the drawing scripts in it, so that it needs no network."""

from pathlib import Path

from nanogpt.report.charts import VEGA_LITE
from nanogpt.runtime import atomic

PAGE = Path(".dvc/plots.html")  # `plots.html_template` of .dvc/config
HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>nanogpt: plots</title>
<style>
  body { font-family: system-ui, sans-serif; margin: 1rem; }
  .vega-embed, svg { max-width: 100%; }
</style>
<!-- Vega, Vega-Lite and Vega-Embed (https://vega.github.io, BSD-3-Clause), as vl-convert-python ships them -->
<script>SCRIPTS</script>
<script>
  const draw = window.vegaEmbed;
  window.vegaEmbed = (place, spec) => draw(place, spec, {renderer: "svg", logLevel: 1});
</script>
</head>
<body>
<h1>Plots</h1>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def write_plots_page() -> None:
    """Write the template that DVC fills with plots, where there is none, in a project of DVC's."""
    if PAGE.exists() or not PAGE.parent.is_dir():
        return
    import vl_convert

    scripts = vl_convert.javascript_bundle(vl_version=VEGA_LITE).replace("</script", "<\\/script")
    atomic.write_text(PAGE, HTML.replace("SCRIPTS", scripts))
