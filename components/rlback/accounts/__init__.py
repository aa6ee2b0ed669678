"""Who may use the console, and for what."""
