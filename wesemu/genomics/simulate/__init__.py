"""Simulated genomes and reads, and fixtures made of them."""
