"""The shipped models: their training, the sweep that chose their form, and their cards."""
