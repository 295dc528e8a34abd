"""The command `compare`: trains one config with several cells and seeds, and compares them."""
