"""Makes the backbones that come with the package, tokenizer and weights, from text."""
