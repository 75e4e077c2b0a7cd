"""Between objects and what is stored of them."""
