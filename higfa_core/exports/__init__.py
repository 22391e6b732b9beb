"""What training code reads: dataset formats, data card, contact sheets, report."""
