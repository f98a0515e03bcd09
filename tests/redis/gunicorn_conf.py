"""What the gunicorns of these tests have in common; the rest is on their command lines."""

control_socket_disable = True  # its place is one for all gunicorns of a user
graceful_timeout = 5  # seconds
