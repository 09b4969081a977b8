"""Recordings of FastCGI connections: their records, their files, and what is made of them."""
