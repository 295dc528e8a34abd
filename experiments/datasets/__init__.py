"""Data sets: registry, download and loading."""
