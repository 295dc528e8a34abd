"""The implementation `"xla"`: scans that XLA compiles, with a derivative written by hand."""
