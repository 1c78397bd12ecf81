"What tokens cost, in odd cases"
import sys
import numpy as np, pytest
from quantizer.evaluate.coding import measure_coding, random_codes, token_bits
from quantizer.tokens.token_set import Tokens

RATES = 'entropy_bitrate','bigram_bitrate','collapsed_rate','bpe_rate','bpe_bitrate'

def random_set(K=16, Q=1, n=20, T=200, rate=50, seed=0):
    rng = np.random.default_rng(seed)
    return Tokens({f'r{i}':rng.integers(K, size=(T,Q)) for i in range(n)}, rate, K)

def values(measures): return {k:getattr(o, 'value', o) for k,o in measures.items()}

def test_codes_cost_what_their_probabilities_say():
    "Costs under counts are those of a proper code: probabilities of all codes add up to 1"
    codes,context = np.array([0,1,1,2,0,1,2,3,3,0]),np.zeros(10, int)
    bits = token_bits(codes, context, np.full(10, 1/8), np.arange(10) < 6)
    p = [2**-bits[codes == k][0] for k in range(4)] # three codes that were counted, and one that was not
    assert sum(p[:3]) + 5*p[3] == pytest.approx(1)
    assert np.ptp(bits[codes == 0]) == 0

def test_order_of_recordings_does_not_matter():
    tokens = random_set()
    turned = Tokens(dict(reversed(tokens.codes.items())), 50, 16)
    a,b = measure_coding(tokens),measure_coding(turned)
    assert values(a) == values(b)
    assert all((a[k].draws == b[k].draws).all() for k in RATES)

def test_codes_can_be_renamed():
    "Bits depend on which codes are equal, not on their numbers; a codebook may be larger than memory"
    tokens = random_set()
    names = np.random.default_rng(1).permutation(2**50-np.arange(16))
    renamed = Tokens({k:names[o.numpy()] for k,o in tokens.codes.items()}, 50, 2**50+1)
    same = Tokens({k:o+1 for k,o in tokens.codes.items()}, 50, 2**50+1)
    a,b = values(measure_coding(renamed)),values(measure_coding(same))
    assert a['bitrate'] == pytest.approx(2500)
    for k in ('entropy','entropy_bitrate','bigram_bitrate','run_length','collapsed_rate'):
        assert a[k] == pytest.approx(b[k], rel=1e-12)
    assert a['entropy_bitrate'] < 0.1*a['bitrate']

def test_codebooks_are_added():
    tokens = random_set(Q=3)
    measured = values(measure_coding(tokens))
    levels = [values(measure_coding(tokens.level(q))) for q in range(3)]
    for k in ('bitrate','effective_bits',*RATES):
        assert measured[k] == pytest.approx(sum(o[k] for o in levels))
    assert measured['run_length'] == pytest.approx(3*50/measured['collapsed_rate'])

def test_a_second_codebook_that_repeats_the_first():
    first = random_set()
    both = Tokens({k:np.repeat(o.numpy(), 2, 1) for k,o in first.codes.items()}, 50, 16)
    one,two,joint = (values(measure_coding(o)) for o in (first, both, both.joint()))
    assert two['entropy_bitrate'] == pytest.approx(2*one['entropy_bitrate'])
    assert joint['entropy_bitrate'] == pytest.approx(one['entropy_bitrate'])

def test_empty_recordings_change_nothing():
    tokens = random_set()
    more = Tokens({'a':[], **tokens.codes, 'z':[]}, 50, 16)
    assert values(measure_coding(more)) == values(measure_coding(tokens))

def test_a_single_token():
    measured = measure_coding(Tokens(dict(a=[3]), 12.5, 8))
    assert measured['run_length'].value == 1 and measured['collapsed_rate'].value == 12.5
    assert measured['entropy'] == measured['effective_bits'] == 0
    assert set(measured['left_out']) == set(RATES)-{'collapsed_rate'}

def test_two_recordings_of_different_codes():
    "Nothing that one half counts occurs in the other"
    measured = measure_coding(Tokens(dict(a=[0]*10, b=[1]*10), 10, 2))
    assert measured['entropy_bitrate'].value > 10 # dearer than a bit for each code
    assert np.isfinite(measured['bigram_bitrate'].value)

def test_without_tokenizers(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tokenizers', None)
    measured = measure_coding(random_set())
    assert 'bpe_rate' not in measured and 'entropy_bitrate' in measured
    assert measured['left_out'] == dict.fromkeys(('bpe_rate','bpe_bitrate'),
        "byte-pair encoding needs tokenizers: pip install 'quantizer[encoders]'")

def test_the_same_numbers_again():
    tokens = random_set(K=4)
    assert values(measure_coding(tokens)) == values(measure_coding(tokens))
    assert values(measure_coding(tokens, seed=1))['bigram_bitrate'] != values(measure_coding(tokens))['bigram_bitrate']

def test_random_codes_keep_lengths_and_combinations():
    tokens = random_set(Q=2)
    shuffled = random_codes(tokens)
    assert {k:len(o) for k,o in shuffled.codes.items()} == {k:len(o) for k,o in tokens.codes.items()}
    def rows(o): return sorted(map(tuple, np.concatenate([*o.codes.values()]).tolist()))
    assert rows(shuffled) == rows(tokens)
    assert not (shuffled.codes['r0'] == tokens.codes['r0']).all()
    assert (random_codes(tokens).codes['r0'] == shuffled.codes['r0']).all()
    assert not (random_codes(tokens, seed=1).codes['r0'] == shuffled.codes['r0']).all()
