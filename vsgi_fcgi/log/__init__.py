"""Server log and access log."""
