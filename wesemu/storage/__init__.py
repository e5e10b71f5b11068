"""Buckets and their objects, and transfers to and from remote storage."""
