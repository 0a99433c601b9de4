"""The verbs of the command line, a file for those of one kind. Only they and `cli.py` print."""
