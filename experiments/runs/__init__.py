"""Training runs: config, directory, training and provenance."""
