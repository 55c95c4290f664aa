"""From noise to the clear image: names of the samplers without torch, and one function each."""
