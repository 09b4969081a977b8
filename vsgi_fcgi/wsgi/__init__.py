"""PEP 3333 and CGI/1.1, without sockets and threads."""
