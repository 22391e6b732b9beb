"""What to make: jobs with seeds and keys, rules, prompts, and the workflow that runs them."""
