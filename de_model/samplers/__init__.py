"""Walking from noise to the clear image: one protocol, four samplers, all deterministic given the noise."""
