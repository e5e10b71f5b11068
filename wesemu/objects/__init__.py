"""Where inputs come from and outputs go: buckets, which are folders."""
