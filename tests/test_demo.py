"What `make demo` promises; slow"
import pytest
from quantizer.all import train_run

@pytest.mark.slow
@pytest.mark.parametrize('config,most', [('mfcc-vq', 0.42), ('logmel-vq', 0.105)])
def test_demo(tmp_path, config, most):
    "256 codes at 50 Hz: below this error, well below k-means, and nine tenths of the codes in use, on held-out recordings"
    m = train_run(config, tmp_path/'run', progress=False)
    own,base = m['this run'],m['k-means']
    assert (own['codebook_size'], own['token_rate']) == (256, 50)
    assert own['nre'] <= most and own['nre'] < 0.9*base['nre'] and own['usage'] >= 0.9, own
