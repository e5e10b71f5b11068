"""wesemu: a local emulator of GA4GH WES and Alibaba Cloud Genomics Service that runs real tools."""

__version__ = "0.1.0"
