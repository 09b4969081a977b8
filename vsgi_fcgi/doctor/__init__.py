"""A WSGI app that answers each request with what is right and wrong about how it came."""

from vsgi_fcgi.doctor.app import Doctor

__all__ = ["Doctor"]
