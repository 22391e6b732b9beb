"""What people have: folders and lists of real labelled images, and what is held out from them."""
