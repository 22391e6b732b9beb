"""How good a synthetic dataset is: measures of labels, coverage, copies and spectrum, and the sheet that shows them."""
