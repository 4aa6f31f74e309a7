"""Gradients -> statistics."""

from gradwatch.measure.pytorch import ZEROS_EVERY, Measurement, count_above, measure, norms, reads_once, total

__all__ = ["ZEROS_EVERY", "Measurement", "count_above", "measure", "norms", "reads_once", "total"]
