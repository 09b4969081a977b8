"""Sockets on the event loop, limits and temporary files: what server, relay and client share."""
