"""
The promise, tried from outside: `python -m sample_project.demo`.

The payment API runs under gunicorn, in processes of its own, and knows nothing of this demo. Here is its
client: it sends, repeats, races, kills and hangs up over TCP, and counts rows by its own connection. Here is
also the card gateway that the API calls.
"""
