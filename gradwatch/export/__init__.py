"""Runs in formats for other programs: a Parquet data set."""
