"""Alibaba Cloud Object Storage Service, as far as its clients need it to fill the buckets."""
