"""KeOps's interface: duckkeops.keops.numpy and duckkeops.keops.torch, as those of pykeops."""
