"""The weight stream: weight image in, ring words in the order of use out."""
