"""Damaged and hostile files of every format that weights are read from."""
