"""Differentiation: custom derivatives, and the dataflow graph of a cell's step."""
