"""Simulated genomes, reads and the fixtures that are made of them."""
