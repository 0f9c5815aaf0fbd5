"""The Π-NAS search: supernets, the methods that train them, the strategies that search them, and the stages of a run."""
