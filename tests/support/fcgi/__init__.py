"""The other end of a FastCGI connection."""
