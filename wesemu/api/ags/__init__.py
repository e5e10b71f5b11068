"""AGS: Alibaba Cloud Genomics Service, product CS, version 2015-12-15 (docs/ags.md)."""
