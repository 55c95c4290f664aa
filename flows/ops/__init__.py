"""What an operator runs: doctor, automations, metrics, `unveil up`, `unveil serve`."""
