"""Gradients -> statistics."""

from gradwatch.measure.pytorch import Measurement, count_above, measure, norms, total

__all__ = ["Measurement", "count_above", "measure", "norms", "total"]
