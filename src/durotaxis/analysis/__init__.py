"""What a run's records say: estimates, tables and figures. Reads records only; needs no torch.

Names are imported on first use, so that a table does not cost the import of the drawing library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durotaxis.analysis.figures import attention_figure as attention_figure
    from durotaxis.analysis.figures import learning_curve as learning_curve
    from durotaxis.analysis.load import Attention as Attention
    from durotaxis.analysis.load import Run as Run
    from durotaxis.analysis.load import attention_over_training as attention_over_training
    from durotaxis.analysis.load import load_run as load_run
    from durotaxis.analysis.stats import Estimate as Estimate
    from durotaxis.analysis.stats import Sample as Sample
    from durotaxis.analysis.stats import mean_interval as mean_interval
    from durotaxis.analysis.stats import normalised_return as normalised_return
    from durotaxis.analysis.stats import samples_of_scores as samples_of_scores
    from durotaxis.analysis.stats import wilson as wilson
    from durotaxis.analysis.tables import Result as Result
    from durotaxis.analysis.tables import markdown_table as markdown_table
    from durotaxis.analysis.tables import summarise as summarise
    from durotaxis.analysis.tables import text_table as text_table

_HOME = {
    "attention_figure": "figures",
    "learning_curve": "figures",
    "Attention": "load",
    "Run": "load",
    "attention_over_training": "load",
    "load_run": "load",
    "Estimate": "stats",
    "Sample": "stats",
    "mean_interval": "stats",
    "normalised_return": "stats",
    "samples_of_scores": "stats",
    "wilson": "stats",
    "Result": "tables",
    "markdown_table": "tables",
    "summarise": "tables",
    "text_table": "tables",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'durotaxis.analysis' has no attribute '{name}'")
    return getattr(importlib.import_module(f"durotaxis.analysis.{_HOME[name]}"), name)
