"""What the model costs on a device: time, memory, arithmetic, and the share of what the device can do."""
