#!/usr/bin/env python3
"""Five TCP connections over loopback, opened and closed: something to capture for the tests of image, package and services."""
import socket

server = socket.create_server(("127.0.0.1", 0))
for _ in range(5):
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    client.sendall(b"question")
    accepted.recv(100)
    accepted.sendall(b"answer")
    client.recv(100)
    client.close()
    accepted.close()
