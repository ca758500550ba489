"""The networks, in torch, each with its paper, and how their weights become an engine's (`deconvolution`, NumPy only).

Contains `fsrcnn`, `plain`, `recurrent`, `baselines`, their `layers`, and `registry`, which builds one by its name.
May import `video` and below. Only this package, training and the torch backend import torch. Start reading in
`registry`.
"""
