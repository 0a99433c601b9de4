"""Generated sets beside real ones."""
