"""What libraries use of pykeops.common."""
