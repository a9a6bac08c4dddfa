"""What is wrong with a machine or a cluster before a study finds out, and what to do about each thing.

Nodes of a job import this package too: nothing here imports PyTorch.
"""
