"""The image's health check: 0 when the service inside says that it is ready. Needs nothing but Python."""

import http.client
import os
import sys

# A server that listens everywhere is asked on the loopback of its family: one on :: may not listen on IPv4.
host = os.environ.get("OODGATE_HOST") or "127.0.0.1"
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
# A liveness answer would call a container healthy that still loads its models; who waits for health wants to send requests.
try:
    connection = http.client.HTTPConnection(host, int(os.environ.get("OODGATE_PORT") or "8000"), timeout=2)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
    sys.exit(answer.status != 200)
except OSError as exc:
    sys.exit(f"no answer: {exc}")
