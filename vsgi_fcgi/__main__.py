"""Run the command ``vsgi-fcgi`` as ``python -m vsgi_fcgi``."""

from __future__ import annotations

from vsgi_fcgi.cli import command

if __name__ == "__main__":
    command()
