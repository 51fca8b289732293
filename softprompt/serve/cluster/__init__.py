"""The engine on the workers of a Ray cluster, through Ray Serve. Nothing else in the server knows of Ray."""
