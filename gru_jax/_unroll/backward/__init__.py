"""The backward pass that the XLA path and the fused kernels share."""
