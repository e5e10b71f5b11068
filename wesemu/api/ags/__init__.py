"""Alibaba Cloud Genomics Service (AGS): product CS, API version 2015-12-15. See docs/ags.md."""
