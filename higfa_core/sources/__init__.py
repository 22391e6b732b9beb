"""The user's data: folders and lists of real labelled images, and what is held out of them."""
