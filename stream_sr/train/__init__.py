"""Training, export and evaluation of the networks.

Needs torch (``pip install stream-sr[train]``), never av, and cv2 only for sequences.
"""
