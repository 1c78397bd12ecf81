"Codebooks of more codes than 32 bits count, or than a table holds"
import json
import math
from types import SimpleNamespace
import pytest
import torch
from quantizer.all import (QUANTIZERS, Corpus, QuantizerError, Tokenizer, evaluate, load_tokens, save_tokens, train_run)
from quantizer.app.watch import watch_data
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

@pytest.mark.parametrize('levels', [pytest.param('[8, 8, 8, 8, 8, 8, 8, 8]', marks=pytest.mark.slow),
    '[4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]'])
def test_run_without_tables(levels, tmp_path):
    "A run of 2^24 and of 2^32 codes: counts are those of the codes that occur, and there are too few frames for k-means"
    few = Corpus.sample().select(range(0, 319, 16))
    few.df.assign(path=[str(few.file(i)) for i in range(len(few))]).to_csv(tmp_path/'few.tsv', sep='\t', index=False)
    small = [f'model.{o}.width=16' for o in ('encoder', 'decoder')]
    measures = train_run('logmel-fsq', tmp_path/'run', [f'data.corpus={tmp_path/"few.tsv"}', 'train.epochs=1', *small,
        f'model.quantizer.levels={levels}'], progress=False)
    own, = measures.values()
    counts, = own['counts']
    size = math.prod(json.loads(levels))
    assert own['tokens'] == sum(counts.values()) and own['dead'] == size-len(counts)
    tokenizer = Tokenizer.load(tmp_path/'run')
    assert own == json.loads(json.dumps(evaluate(tokenizer, few.part('valid')))) | {k:own[k] for k in ('counts', 'epoch', 'step')}
    assert max((tmp_path/'run'/o).stat().st_size for o in ('codes.json', 'measures.json', 'report.html')) < 2**20
    book, = watch_data(tmp_path/'run')['codes']['books']
    assert book['size'] == size and book['unused'] == own['dead']
