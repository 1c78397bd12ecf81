"Phonetic measures: equal to DiscoPhon's and scikit-learn's; tokens of any rate, size and depth; what is not there is left out"
import json, os
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import mutual_info_score
from quantizer.core.errors import QuantizerError
from quantizer.data.corpus import Corpus
from quantizer.data.encoders import WhisperEncoder
from quantizer.data.features import MFCC
from quantizer.evaluate.alignments import Alignments
from quantizer.evaluate.metrics import METRICS
from quantizer.evaluate.phonetic import AlignedTokens, above_chance, chance_pnmi, measure_phonetic, pnmi, read_phones
from quantizer.quantizers.search import kmeans
from quantizer.tokens.token_set import Tokens

GOLDEN = Path(__file__).parent/'golden_phonetic'
SYSTEMS = json.loads((GOLDEN/'codes.json').read_text())

@pytest.fixture(scope='module')
def spoken(): return Alignments.of(Corpus.sample())

def tokens_of(name):
    o = SYSTEMS[name]
    return Tokens(o['codes'], o['token_rate'], o['codebook_size'], name)

def values(measures): return {k:getattr(o, 'value', o) for k,o in measures.items() if k != 'levels'}

@pytest.mark.parametrize('name', SYSTEMS)
def test_equals_discophon(spoken, name):
    expected = json.loads((GOLDEN/'values.json').read_text())[name]
    found = values(measure_phonetic(tokens_of(name), spoken, resamples=1))
    assert {k:found[k] for k in expected} == pytest.approx(expected, abs=1e-9)

@pytest.mark.parametrize('name', SYSTEMS)
def test_equals_scikit_learn(spoken, name):
    aligned = AlignedTokens(tokens_of(name), spoken)
    units,phones = aligned.codes[aligned.token,0],aligned.phone
    entropy = mutual_info_score(phones, phones)
    assert pnmi(units, phones) == pytest.approx(mutual_info_score(units, phones)/entropy, abs=1e-9)

@pytest.mark.parametrize('name', SYSTEMS)
def test_shuffled_labels_are_zero(spoken, name):
    aligned = AlignedTokens(tokens_of(name), spoken)
    units,rng = aligned.codes[aligned.token,0],np.random.default_rng(0)
    for phones in (rng.permutation(aligned.phone), rng.integers(40, size=len(units))):
        assert abs(above_chance(pnmi(units, phones), chance_pnmi(units, phones))) < 0.02

def test_every_measure_is_defined_and_has_an_interval(spoken):
    measures = measure_phonetic(tokens_of('kmeans50'), spoken)
    assert measures.keys() <= METRICS.keys()
    for name,o in measures.items():
        if name.endswith('_chance') or name == 'aligned_recordings': continue
        assert len(o.draws) == 1000 and o.low < o.value < o.high and o.high-o.low < 0.5, name
    assert values(measures) == values(measure_phonetic(tokens_of('kmeans50'), spoken, resamples=10))

def test_large_numbers(spoken):
    few = tokens_of('kmeans50')
    many = Tokens({k:2**31-1-10**7*o for k,o in few.codes.items()}, 50, 2**31)
    assert values(measure_phonetic(many, spoken, resamples=1)) == values(measure_phonetic(few, spoken, resamples=1))

@pytest.mark.parametrize('rate', [200, 100, 75, 50, 21.5, 12.5, 1])
def test_any_rate(spoken, rate):
    "Each 10 ms is read once, by the token that covers it; a token shorter than this is read once"
    id = spoken.ids[0]
    n = int(rate*spoken.segments(id).end_s.max())
    token,phone = read_phones(n, rate, spoken, id)
    step = max(100, rate)
    times = (np.arange(len(token))+0.5)/step
    assert (token == np.floor(times*rate)).all() and token[-1] == n-1
    assert (phone == spoken.frame_phones(id, len(token), step)).all()

def test_levels(spoken):
    "A first level, a second one that adds nothing, and a third that adds all there is"
    few = tokens_of('kmeans50')
    codes = {k:torch.cat([o//10, o//10, o], 1) for k,o in few.codes.items()}
    measures = measure_phonetic(Tokens(codes, 50, 50), spoken, resamples=1)
    alone = [o['pnmi'].value for o in measures['levels']]
    joint = [o['cumulative_pnmi'].value for o in measures['levels']]
    assert alone[0] == alone[1] == joint[0] == pytest.approx(joint[1])
    assert alone[2] == pytest.approx(joint[2]) == measures['pnmi'].value > alone[0]+0.1
    assert values(measures) == pytest.approx(values(measure_phonetic(few, spoken, resamples=1)))

def alignment(*rows): return Alignments(pd.DataFrame(rows, columns=['id','start_s','end_s','phone']))

def test_what_is_left_out():
    "Recordings without tokens, without alignment, or shorter than their first phone; gaps, and segments of no length"
    table = alignment(('a',.1,.2,'A'), ('a',.2,.2,'X'), ('a',.2,.3,'B'), ('a',.5,.6,'A'), ('empty',0,1,'A'), ('late',.9,1,'A'), ('other',0,1,'B'))
    codes = dict(a=[9,0,1,2,2,0,3], empty=[], late=[5,5], unknown=[7])
    measures = values(measure_phonetic(Tokens(codes, 10, 10), table))
    assert measures['aligned_recordings'] == 1
    assert measures['pnmi'] == measures['phone_purity'] == 1
    # kept are 0, 1, the 2 after it, the second 0, and 3. They read as A B A A A: 2 and 3 have no phone, and A is the most frequent
    assert measures['per'] == 0
    assert (measures['boundary_precision'], measures['boundary_recall']) == (1/2, 1) # 0.3 s is the end of B: before a gap, not gold

@pytest.mark.parametrize('codes,table', [
    (dict(b=[1]), alignment(('a',0,1,'A'))),
    (dict(a=[1]), alignment(('a',5,6,'A'))),
    (dict(a=[1]), alignment(('a',0,0,'A')))])
def test_nothing_to_measure(codes, table):
    with pytest.raises(QuantizerError, match='none of its 1 recordings has a token with a phone') as e:
        measure_phonetic(Tokens(codes, 10, 10), table)
    assert '\n' not in str(e.value)

def test_no_information():
    "One phone, one code, one token: no number, or the right one, and no crash"
    one = alignment(('a',0,1,'A'))
    measures = values(measure_phonetic(Tokens(dict(a=[1]*10), 10, 10), one))
    assert np.isnan(measures['pnmi']) and np.isnan(measures['boundary_f1'])
    assert measures['per'] == 0 and measures['phone_purity'] == measures['cluster_purity'] == 1
    assert values(measure_phonetic(Tokens(dict(a=[1]), 1, 10), one))['per'] == 0
    two = alignment(('a',0,.5,'A'), ('a',.5,1,'B'))
    measures = values(measure_phonetic(Tokens(dict(a=[1]*10), 10, 10), two))
    assert measures['pnmi'] == 0 and measures['boundary_recall'] == 0 and measures['boundary_r'] == pytest.approx(1-2**.5/2)

def kmeans_codes(feats, K):
    frames = torch.cat([*feats.values()])
    g = torch.Generator().manual_seed(0)
    sample = torch.randperm(len(frames), generator=g)[:50_000]
    centres = kmeans(frames[sample], K, 20, g)
    return {id:torch.cdist(o, centres).argmin(1) for id,o in feats.items()}

@pytest.mark.slow
@pytest.mark.skipif('QUANTIZER_DATA' not in os.environ, reason='set QUANTIZER_DATA to a folder with more speech data')
@pytest.mark.parametrize('name,rate,expected,tolerance', [('mfcc',100,0.37,0.05), ('whisper',50,0.56,0.06)])
def test_read_speech(name, rate, expected, tolerance):
    "K-means with 100 codes on English read speech has the PNMI that was measured by other means; MFCC only just"
    data = Path(os.environ['QUANTIZER_DATA'])
    corpus = Corpus.load(data/'data/dev/manifest.tsv', dict(label='text'))
    corpus = corpus.select(corpus.df.path.str.startswith('librispeech/').to_numpy())
    spoken = Alignments.of(corpus)
    extractor = MFCC() if name == 'mfcc' else WhisperEncoder(str(data/'models/whisper-tiny.en'), layer=2)
    feats = {}
    for recording in corpus:
        if recording.id not in spoken: continue
        wav = recording.audio()[None]
        with torch.no_grad(): x = extractor(wav, torch.tensor([wav.shape[1]]))[0][0]
        feats[recording.id] = (x-x.mean(0))/x.std(0) if name == 'mfcc' else x # 0.327; normalised over all recordings it is 0.317
    measures = measure_phonetic(Tokens(kmeans_codes(feats, 100), rate, 100), spoken)
    assert measures['pnmi'].value == pytest.approx(expected, abs=tolerance)
    assert measures['pnmi_chance'].value < 0.02
