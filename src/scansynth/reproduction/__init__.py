"""A table of a paper, from scans to figures beside the paper's: what is asked, planned, run and written."""
