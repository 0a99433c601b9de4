"""Runs handed on: exported with a card that says what they are, and as bundles that MONAI runs."""
