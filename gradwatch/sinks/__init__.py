"""Destinations that the recorder feeds while a run is recorded, besides the store: event files."""
