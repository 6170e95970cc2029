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
    from durotaxis.analysis.scores import MIN_BOOTSTRAP as MIN_BOOTSTRAP
    from durotaxis.analysis.scores import Effect as Effect
    from durotaxis.analysis.scores import aggregate as aggregate
    from durotaxis.analysis.scores import difference as difference
    from durotaxis.analysis.scores import interquartile_mean as interquartile_mean
    from durotaxis.analysis.scores import paired_effect as paired_effect
    from durotaxis.analysis.scores import performance_profile as performance_profile
    from durotaxis.analysis.scores import probability_of_improvement as probability_of_improvement
    from durotaxis.analysis.scores import ratio_of_means as ratio_of_means
    from durotaxis.analysis.scores import spread_ratio as spread_ratio
    from durotaxis.analysis.stats import CensoredSteps as CensoredSteps
    from durotaxis.analysis.stats import Estimate as Estimate
    from durotaxis.analysis.stats import Sample as Sample
    from durotaxis.analysis.stats import area_under_curve as area_under_curve
    from durotaxis.analysis.stats import mean_interval as mean_interval
    from durotaxis.analysis.stats import normalised_return as normalised_return
    from durotaxis.analysis.stats import restricted_mean_steps as restricted_mean_steps
    from durotaxis.analysis.stats import samples_of_scores as samples_of_scores
    from durotaxis.analysis.stats import spread as spread
    from durotaxis.analysis.stats import steps_to_reach as steps_to_reach
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
    "MIN_BOOTSTRAP": "scores",
    "Effect": "scores",
    "aggregate": "scores",
    "difference": "scores",
    "interquartile_mean": "scores",
    "paired_effect": "scores",
    "performance_profile": "scores",
    "probability_of_improvement": "scores",
    "ratio_of_means": "scores",
    "spread_ratio": "scores",
    "Estimate": "stats",
    "Sample": "stats",
    "mean_interval": "stats",
    "normalised_return": "stats",
    "samples_of_scores": "stats",
    "wilson": "stats",
    "CensoredSteps": "stats",
    "area_under_curve": "stats",
    "restricted_mean_steps": "stats",
    "spread": "stats",
    "steps_to_reach": "stats",
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
