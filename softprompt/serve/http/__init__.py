"""HTTP in front of the engine: OpenAI's routes and ours, keys and limits, metrics, the page."""
