"""How fast an engine is alone, how fast the whole filter, how late a live picture: figures as JSON, table and plot."""
