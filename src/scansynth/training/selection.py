"""Which of a run's weights synthesis takes, and by which rule the best are found."""

from typing import Literal

Which = Literal["auto", "last", "best"]
"""The last averages, the best that were validated, or by rule: the best where `FEWEST` subjects validate, or the last.

A few subjects cannot tell which weights are best, and chance picks early ones.
"""
FEWEST = 5
"""Validation subjects from which on the weights that they find best are taken."""
RULE = "PSNR inside the brain (protocol default), mean over targets; without sources the held-out loss"
"""By which weights are the best: with brightness in it. A figure that divides each image by its own mean cannot tell a
synthesis of half the intensity."""
