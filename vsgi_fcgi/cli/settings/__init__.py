"""Settings: their sources (command line, environment, file), their help and the manual page."""
