"""The engine's contract over a running vLLM, which is given embeddings. Nothing else in the package imports vLLM."""
