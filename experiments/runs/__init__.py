"""One training run: its config, its directory, where its figures come from."""
