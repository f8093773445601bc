"""A shop: its pricing server, whose troubles can be switched, and checkouts that outlive them."""
