"""Held requests: long polling and streams, in which no worker waits (GRIP)."""
