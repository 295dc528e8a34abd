"""Imputation: windows with hidden values, lines across gaps, and serving."""
