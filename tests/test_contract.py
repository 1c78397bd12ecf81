"Every registered quantizer keeps the contract; a new one is checked as soon as it is registered"
import re
import pytest
from quantizer.all import QuantizerError, check_contract
from quantizer.quantizers.contract import check_extremes
from variants import make, variants

@pytest.mark.parametrize('variant', variants)
def test_contract(variant): check_contract(lambda: make(variant, dim=16, codebook_size=8))

@pytest.mark.parametrize('sizes', [dict(dim=1, codebook_size=8), dict(dim=16, codebook_size=1), dict(dim=16, codebook_size=256)],
    ids=lambda sizes: f"D={sizes['dim']}, K={sizes['codebook_size']}") # the last has more codes than there are frames
@pytest.mark.parametrize('variant', variants)
def test_extreme_sizes(variant, sizes):
    "Extreme vectors with extreme sizes; or the refusal names the value, and what it does not fit or is expected"
    try: make(variant, **sizes)
    except QuantizerError as e:
        assert re.search('codebook_size is 1: expected|dim 1 (cannot be cut into|is not a multiple of)', str(e)), e
    else: check_extremes(lambda: make(variant, **sizes))
