"Every registered quantizer keeps the contract; a new one is checked as soon as it is registered"
import pytest
from quantizer.all import check_contract
from variants import make, variants

@pytest.mark.parametrize('variant', variants)
def test_contract(variant): check_contract(lambda: make(variant, dim=16, codebook_size=8))
