"""What to train here, by rules, and all of it in one command."""
