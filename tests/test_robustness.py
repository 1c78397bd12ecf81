"""Robustness of tokens: known answers of tokenizers that are made up, and odd cases"""
import math, numpy as np, pytest, soundfile as sf, torch
import quantizer # before torchaudio
from torchaudio.functional import edit_distance as reference_distance
from quantizer.core.errors import QuantizerError
from quantizer.data.corpus import Corpus
from quantizer.evaluate.edit_distance import collapse_repeats, edit_distance, edit_distances
from quantizer.evaluate.metrics import METRICS
from quantizer.evaluate.perturbations import PERTURBATIONS, perturb
from quantizer.data.augment import stretch
from quantizer.evaluate.robustness import CONTROLS, count_edits, measure_robustness, unit_edit_distances

SAMPLES = 400 # in a token of the made-up tokenizers, which have 40 tokens a second

class Blocks:
    "A tokenizer whose code is a function of a block of samples and of its place"
    sample_rate,token_rate = 16000,40
    def __init__(self, *codes): self.codes = codes # a function for each level
    def encode(self, wavs, sr):
        assert sr == self.sample_rate
        blocks = [o[:len(o)//SAMPLES*SAMPLES].reshape(-1, SAMPLES) for o in wavs]
        return [torch.tensor([[f(x, i) for f in self.codes] for i,x in enumerate(o)], dtype=torch.long).reshape(-1, len(self.codes)) for o in blocks]

def place(x, i): return i
def nothing(x, i): return 0
def level(x, i): return int(torch.round(10*torch.log10(x.square().mean()+1e-12)))

@pytest.fixture
def corpus(tmp_path):
    "Ten recordings of a tone, of 36 to 72 tokens, each at its own constant level"
    for k in range(10):
        n = (36+4*k)*SAMPLES
        sf.write(tmp_path/f'{k}.wav', 10**(-k/10)*np.sin(2*np.pi*400*np.arange(n)/16000)*0.9, 16000, subtype='FLOAT')
    return Corpus.from_folder(tmp_path)

# -- edit distance

@pytest.mark.parametrize('symbols', [1, 2, 30])
def test_edit_distance_of_random_sequences(symbols):
    rng = np.random.default_rng(symbols)
    for n in (0, 1, 29, 30, 31, 63, 64, 65, 200): # around the digits of Python's integers
        a,b = rng.integers(symbols, size=n).tolist(),rng.integers(symbols, size=rng.integers(100)).tolist()
        expected = reference_distance(a, b)
        assert edit_distance(a, b) == edit_distance(b, a) == expected

def test_edit_distance_types():
    codes = torch.tensor([[1,2], [3,4]])
    assert edit_distances([codes], [codes.numpy()]).tolist() == [0]
    assert edit_distances([torch.zeros(0, 2, dtype=torch.long)], [codes]).tolist() == [2]
    assert edit_distances([], []).tolist() == []
    assert edit_distance('', []) == 0
    assert collapse_repeats(torch.zeros(0, 2, dtype=torch.long)).shape == (0,2)
    assert collapse_repeats(torch.tensor([5,5,5])).tolist() == [5]

# -- definitions

def test_definitions_differ():
    # a short recording that changes wholly, and a long one that does not
    edits = count_edits([[1,1], [2]*98], [[3,3], [2]*98])
    ued = unit_edit_distances(edits)
    assert ued == pytest.approx(dict(nast=1/2, gat=1/4, mseb_micro=2/100, mseb_macro=1/2, mseb_spread=1/2))

# -- known answers

def test_level_in_db(corpus):
    # 12 dB less: each token is another one, all tokens of a recording are equal
    table = measure_robustness(Blocks(level), corpus, ['quieter'])['ued_table']
    assert table.loc['quieter', ['nast','mseb_micro','mseb_macro','mseb_spread']].tolist() == [1, 1, 1, 0]
    tokens = np.arange(36, 73, 4)
    assert table.gat['quieter'] == pytest.approx(np.mean(1/tokens))
    assert table.nast['shift'] == 0

def test_speed_of_places(corpus):
    # `n` tokens become `n/0.9` or `n/1.1`, rounded down: what is more, or less, is an edit
    table = measure_robustness(Blocks(place), corpus, ['slower','faster'])['ued_table']
    tokens = np.arange(36, 73, 4)
    assert table.nast['slower'] == pytest.approx((np.floor(tokens/0.9)-tokens).sum()/tokens.sum())
    assert table.nast['faster'] == pytest.approx((tokens-np.floor(tokens/1.1)).sum()/tokens.sum())
    assert table.nast['all'] == pytest.approx(table.nast[['slower','faster']].mean())
    assert table.nast['shift'] == pytest.approx(10/tokens.sum()) # the last half of a token is lost

def test_levels(corpus):
    res = measure_robustness(Blocks(nothing, level), corpus, ['quieter'])
    row = res['ued_table'].loc['quieter']
    assert (row.nast, row.level_1, row.level_2) == (1, 0, 1)
    assert res['ued_table'].loc['all', ['level_1','level_2']].tolist() == [0, 1]
    assert 'level_1' not in measure_robustness(Blocks(level), corpus, ['quieter'])['ued_table']

def test_unrelated_is_another_recording(corpus):
    table = measure_robustness(Blocks(level), corpus, ['quieter'])['ued_table']
    assert table.nast['unrelated'] == 1 and table.of_unrelated['quieter'] == 1
    corpus.df['text'] = ['one','two']*5
    lengths = measure_robustness(Blocks(place), corpus, ['quieter'])['ued_table'].nast['unrelated']
    assert 0 < lengths < 0.5 # of similar length, and never itself

# -- intervals and draws

def test_same_draws(corpus):
    res = measure_robustness(Blocks(place), corpus, ['slower','faster'])
    mean = (res['ued_slower'].draws+res['ued_faster'].draws)/2
    np.testing.assert_allclose(res['ued'].draws, mean)
    assert res['ued'].low < res['ued'].value < res['ued'].high
    assert res['ued'].groups == res['ued_recordings'] == 10

def test_seed(corpus):
    def table(seed): return measure_robustness(Blocks(level), corpus, ['white_5db'], seed=seed)['ued_table']
    assert table(0).equals(table(0)) and not table(0).equals(table(1))

# -- what is left out

def test_left_out(corpus, tmp_path):
    sf.write(tmp_path/'a_short.wav', np.ones(SAMPLES-1)*0.1, 16000)
    (tmp_path/'b_text.wav').write_text('no audio')
    res = measure_robustness(Blocks(level), Corpus.from_folder(tmp_path), ['quieter'])
    assert res['ued_recordings'] == 10 and set(res['ued_problems']) == {'a_short.wav','b_text.wav'}
    assert 'a_short.wav: shorter than a token' in res['ued_problems']['a_short.wav']

def test_nothing_usable(tmp_path):
    (tmp_path/'text.wav').write_text('no audio')
    with pytest.raises(QuantizerError, match=r'none of 1 recordings can be used; the first: .*text\.wav'):
        measure_robustness(Blocks(level), Corpus.from_folder(tmp_path), ['quieter'])

def test_bad_arguments(corpus):
    with pytest.raises(QuantizerError, match="no perturbation is called 'white'"):
        measure_robustness(Blocks(level), corpus, ['white'])
    with pytest.raises(QuantizerError, match='recordings is 0: expected 1 or more'):
        measure_robustness(Blocks(level), corpus, ['quieter'], recordings=0)

def test_one_recording(corpus):
    res = measure_robustness(Blocks(level), corpus, ['quieter'], recordings=1)
    assert 'ued_unrelated' not in res and [*res['ued_table'].index] == ['quieter','all','shift']
    assert res['ued'].value == 1 and math.isnan(res['ued'].low)

def test_long_recordings_are_cut(tmp_path):
    sf.write(tmp_path/'long.wav', np.full(16000*40, 0.1), 16000)
    table = measure_robustness(Blocks(place), Corpus.from_folder(tmp_path), ['slower'])['ued_table']
    assert table.nast['slower'] == pytest.approx((np.floor(1200/0.9)-1200)/1200) # 30 s of 40 tokens

# -- disturbances

@pytest.mark.parametrize('name', PERTURBATIONS)
@pytest.mark.parametrize('sample_rate', [8000, 22050, 48000])
def test_rates_and_lengths(name, sample_rate):
    speed = dict(slower=0.9, faster=1.1).get(name, 1)
    for n in (1, 37, 3001):
        wav = 0.5*torch.sin(torch.arange(n)/9)+0.1
        x = perturb(wav, sample_rate, name)
        assert x.dtype == torch.float32 and torch.isfinite(x).all()
        assert len(x) == math.ceil(round(n/speed, 6))

def test_stretch_keeps_a_tone():
    tone = np.sin(2*np.pi*300*np.arange(8000)/8000)
    for factor in (0.5, 0.9, 1.5, 2):
        long = stretch(tone, 8000, factor)
        assert len(long) == math.ceil(8000*factor)
        middle = long[1000:-1000]
        assert np.mean(middle**2) == pytest.approx(0.5, abs=0.02)
        assert np.abs(np.fft.rfft(middle, 8000)).argmax() == pytest.approx(300, abs=2)

def test_metrics_have_entries():
    assert {o for o in METRICS if o.startswith('ued_')} >= {f'ued_{o}' for o in (*PERTURBATIONS, *CONTROLS)}
