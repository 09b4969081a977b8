"""One file per web server: its quirks, its configuration, and the advice of the doctor."""
