"""HTTP: a reverse proxy in front of an OpenAI-compatible server, which raises the lane for live requests."""
