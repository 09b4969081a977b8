"""The same scenarios of held requests through Pushpin and through this server."""
