"""The core: runs, their store, scheduling and publishing. No HTTP, no engine, no genomics."""
