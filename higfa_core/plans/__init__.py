"""What is to be made: jobs with seeds and keys, rules, prompts, the workflow they go into."""
