"""The library: asynchronous timestep conditioning without a host. Importing this package does not import torch."""
