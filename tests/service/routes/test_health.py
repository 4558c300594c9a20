import httpx


def test_a_ready_server_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_probes_may_ask_for_the_head_alone(client: httpx.Client) -> None:
    for probe in ("/livez", "/readyz"):
        answer = client.head(probe)
        assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_are_in_prometheus_text_format(client: httpx.Client) -> None:
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE oodgate_requests_total counter" in response.text
