"""A compiled bundle as one HTML page: figures, sentences, drawings, and the page around them."""
