"""Fused kernels: a whole sequence in one launch, one folder for each kind of device."""
