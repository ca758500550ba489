"""Training, export and quantisation of the networks, with recipes in ``recipes/``.

Contains data (`data`, `clips`, `scenes`, `degrade`), the loop (`loop`, `step`, `recipe`) and what becomes of a trained
network (`export`, `quantize`, `card`). Needs torch (``pip install stream-sr[train]``), never av, and cv2 only for
sequences. May import `evaluation` and below. Start reading in `loop`.
"""
