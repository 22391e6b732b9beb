"""Looking through a dataset: other rules, verdicts by hand, and the page that shows both."""
