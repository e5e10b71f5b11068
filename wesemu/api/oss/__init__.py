"""Alibaba Cloud Object Storage Service (OSS): the operations that clients need to fill and read
buckets."""
