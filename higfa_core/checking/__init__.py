"""Can a classifier read what the guidance will show it?"""
