"""How servers are asked: how long they are waited for, how often, and how fast."""
