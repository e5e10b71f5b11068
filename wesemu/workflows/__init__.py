"""Which workflow a request means: the bundled pipelines' parameters, and the planner."""
