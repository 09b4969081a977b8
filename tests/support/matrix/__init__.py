"""Requests and responses through each web server, and what web servers make impossible."""
