"""All methods that fit a task, trained at equal cost, measured side by side, by one worker or several: one table."""
