"""Listening sockets (TCP, UNIX and inherited ones) and access to them."""
