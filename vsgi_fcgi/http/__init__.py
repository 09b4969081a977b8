"""An HTTP/1.1 server for a WSGI app, on gevent sockets: strict parsing and correct framing."""
