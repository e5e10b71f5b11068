"""GA4GH Workflow Execution Service (WES), versions 0.3.0 to 1.1.0. See docs/wes.md."""
