import pytest
import torch
from hypothesis import settings

# A machine may be busy with other things: time is no reason to fail.
settings.register_profile('patient')
settings.load_profile('patient')


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Equal outputs are compared bit for bit, which the number of threads may change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
