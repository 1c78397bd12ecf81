"Codebooks of more codes than 32 bits count, or than a table holds"
from types import SimpleNamespace
import pytest
import torch
from quantizer.all import QUANTIZERS, QuantizerError, load_tokens, save_tokens
from safetensors.torch import load_file, save_file

def tokenizer_of(codebook_size):
    "What a token file asks of a tokenizer"
    return SimpleNamespace(codebook_size=codebook_size, fingerprint='f', token_rate=50.)

@pytest.mark.parametrize('size,dtype', [(2**15, torch.int16), (2**15+1, torch.int32), (2**31, torch.int32),
    (2**31+1, torch.int64), (2**32, torch.int64), (2**62-1, torch.int64)])
def test_token_file_holds_every_code(size, dtype, tmp_path):
    codes = torch.tensor([[0], [size//2], [size-1]])
    save_tokens(tmp_path/'t.safetensors', dict(a=codes), tokenizer_of(size))
    assert load_file(tmp_path/'t.safetensors')['a'].dtype == dtype
    assert torch.equal(load_tokens(tmp_path/'t.safetensors', tokenizer_of(size))['a'], codes)

def test_cut_codes_are_refused(tmp_path):
    "Earlier versions wrote at most 32 bits"
    save_file(dict(a=torch.zeros(4, 1, dtype=torch.int32)), tmp_path/'t.safetensors', metadata=dict(fingerprint='f'))
    assert load_tokens(tmp_path/'t.safetensors', tokenizer_of(2**31))['a'].dtype == torch.int64
    with pytest.raises(QuantizerError, match='cut to 32 bits.*encode the recordings again'):
        load_tokens(tmp_path/'t.safetensors', tokenizer_of(2**33))

@pytest.mark.parametrize('name,options', [('fsq', dict(levels=[8]*11)), ('fsq', dict(levels=[8]*8)), ('fsq', dict(levels=[3]*39)),
    ('fsq', dict(levels=[512]*6)), ('lfq', dict(codebook_size=2**32)), ('bsq', dict(codebook_size=2**32))])
def test_every_code_has_its_vector(name, options):
    "Without projections: codes of random grid points come back, the first and the last too"
    torch.manual_seed(0)
    dim = len(options['levels']) if 'levels' in options else 32
    q = QUANTIZERS[name](dim=dim, **options).eval()
    K = q.codebook_size
    codes = torch.cat([torch.randint(K, (500,)), torch.tensor([0, K-1])])[:,None]
    grid = q.from_codes(codes)
    assert len(grid.unique(dim=0)) == len(codes.unique())
    if name == 'fsq': # vectors are values between -1 and 1: undo the bound
        levels = q.levels//2
        assert torch.equal(q._grid_codes(grid*levels), codes)
        z = torch.randn(200, dim)*2
        assert torch.equal(q.quantize(z, None)[1], q.to_codes(z))
    else:
        assert torch.equal(q.to_codes(grid), codes)
