"""GA4GH Workflow Execution Service, versions 0.3.0 to 1.1.0 (docs/wes.md)."""
