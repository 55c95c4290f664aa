"""Which scale and offset the pixels of a scene have: decided from what its item says, doubted by what they show."""
