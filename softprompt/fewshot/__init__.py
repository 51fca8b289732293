"""Prompts from a handful of examples: `sample` (the protocol's parts), `protocol` (fixed seeds, mean and spread),
`calibrate` (priors of class words), `demonstrations`, `pet` (an ensemble of patterns into one prompt).

Nothing is imported here: `plan` reads `sample` and `demonstrations`, and the others read `plan`.
"""
