"What all tests of this folder share"
import os
os.environ['OMP_NUM_THREADS'] = '1' # before torch is imported: some tests fork, and OpenMP's threads do not live on in a fork, which waits for them forever

import pytest
from matplotlib.figure import Figure

@pytest.fixture(scope='module', autouse=True)
def no_pictures():
    "The pictures of a report take longer than a small training, and notebooks draw them: here they are empty"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Figure, 'savefig', lambda *args, **kwargs: None)
        yield
