"""Arrays by name: their files, what they are likely to hold, and data sets of them."""
