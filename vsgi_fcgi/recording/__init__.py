"""Recordings of FastCGI connections: their records, their files, replays and pages."""
