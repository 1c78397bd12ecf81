"Every registered quantizer keeps the contract; a new one is checked as soon as it is registered"
import pytest
from quantizer.all import QUANTIZERS, check_contract

@pytest.mark.parametrize('name', sorted(QUANTIZERS))
def test_contract(name): check_contract(lambda: QUANTIZERS[name](dim=16, codebook_size=8))

def test_contract_gradient_codebook(): check_contract(lambda: QUANTIZERS['vq'](dim=16, codebook_size=8, codebook='gradient'))
