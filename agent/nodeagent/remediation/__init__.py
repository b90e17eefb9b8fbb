"""What is done about findings: which action when, how often at most, and what is remembered of it over restarts."""
