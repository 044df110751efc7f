"""What forked test processes have at hand: the script of the report's page, which takes seconds to put together."""

import importlib.util

if all(importlib.util.find_spec(name) for name in ("altair", "vl_convert")):
    from lightning_featgeo.report.charts import runtime

    runtime()
