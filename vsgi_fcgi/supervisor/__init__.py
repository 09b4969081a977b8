"""The supervisor: the process that holds the sockets, and starts processes which load the app."""
