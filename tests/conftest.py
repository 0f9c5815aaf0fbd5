"""What all tests share."""

from hypothesis import settings

# A busy machine is no fault: without a limit on the time of an example.
settings.register_profile('pinas', deadline=None)
settings.load_profile('pinas')
