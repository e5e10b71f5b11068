"""Files that come from elsewhere and go elsewhere: by HTTP, and in buckets of S3 and OSS."""
