"""The relay: FastCGI in, multiplexed FastCGI out."""
