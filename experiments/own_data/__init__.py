"""One's own data: sources read files, problems train on what they read; `dataset` lies between."""
