"""Runs in the formats of other programs: tables, a Parquet data set, event files."""
