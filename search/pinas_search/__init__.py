"""The Π-NAS search: supernets, methods that train them, strategies that search them, and the stages of a run."""
