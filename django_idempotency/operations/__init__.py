"""What operators and dashboards ask for. Nothing that answers a request imports it."""
