"""The report of an evaluation or a comparison: one HTML file, opened from disk without a network."""
