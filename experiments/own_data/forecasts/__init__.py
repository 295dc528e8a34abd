"""Forecasting: windows of sequences, the linear map below the network, baselines and serving."""
