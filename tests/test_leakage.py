"Leakage of speaker, gender and language, in odd cases"
import numpy as np, pandas as pd, pytest
from quantizer.core.errors import QuantizerError
from quantizer.evaluate.intervals import difference
from quantizer.evaluate.leakage import feature_leakage, histograms, linear_probe, measure_leakage, shuffle_labels
from quantizer.tokens.token_set import Tokens

NAMES = {f'{label}_{kind}' for label in ('speaker','gender','language') for kind in ('probe','chance')}

def people(n=8, recordings=2, **columns):
    rows = [dict(id=f'{i}-{j}', speaker=f's{i}', gender='FM'[i%2], language='es' if i < n//2 else 'fr')
        for i in range(n) for j in range(recordings)]
    return pd.DataFrame(rows).assign(**columns)

def speech(about, T=200, K=32, Q=1):
    "Tokens that name the speaker"
    rng = np.random.default_rng(0)
    codes = {id:int(s[1:]) + 8*rng.integers(K//8, size=(T,Q)) for id,s in zip(about.id, about.speaker)}
    return Tokens(codes, 25, K)

def values(measures): return {k:o.value for k,o in measures.items() if k in NAMES}

@pytest.mark.parametrize('recordings,Q', [(1,1), (2,1), (3,2)])
def test_tokens_that_name_the_speaker(recordings, Q):
    about = people(recordings=recordings)
    measured = measure_leakage(speech(about, 400, Q=Q), about, resamples=20)
    assert measured['speaker_probe'].value == 1 and measured['left_out'] == {}
    assert set(measured) == NAMES | {'counts','left_out'}

def test_a_cut_recording_loses_a_second():
    "Of 400 tokens at 25 Hz 187 are left on each side: two pieces of three seconds"
    about = people(recordings=1)
    measured = measure_leakage(speech(about, 400), about, resamples=1)
    assert measured['counts']['speaker'] == dict(classes=8, speakers=8, pieces=8*2*2)
    assert measured['counts']['gender'] == dict(classes=2, speakers=8, pieces=8*5)

def test_speaker_and_chance_have_the_same_draws():
    about = people()
    measured = measure_leakage(speech(about), about, resamples=50)
    gap = difference(measured['speaker_probe'], measured['speaker_chance'])
    assert gap.value == pytest.approx(1-measured['speaker_chance'].value) and len(gap.draws) == 50

def test_order_and_strangers_do_not_matter():
    about = people()
    tokens,more = speech(about),people(9)
    a = measure_leakage(tokens, about, resamples=1)
    b = measure_leakage(tokens, more[::-1], resamples=1) # recordings without tokens
    few = measure_leakage(Tokens(tokens.codes | dict(other=[0]*500), 25, 32), about, resamples=1) # and tokens of no row
    assert values(a) == values(b) == values(few)

@pytest.mark.parametrize('change,reason', [
    (dict(gender=''), 'no recording with a speaker has a gender'),
    (dict(gender=np.nan), 'no recording with a speaker has a gender'),
    (dict(gender='F'), r'fewer than two classes have two speakers with a whole piece of speech \(F: 8\)'),
    (dict(gender=['F']*15+['M']), r'\(F: 8, M: 1\)')])
def test_one_class_is_left_out(change, reason):
    about = people(**change)
    measured = measure_leakage(speech(about), about, resamples=1)
    assert set(measured['left_out']) == {'gender_probe','gender_chance'}
    assert pd.Series(measured['left_out']).str.contains(reason).all()
    assert measured['speaker_probe'].value == 1

def test_missing_columns_are_left_out():
    about = people()
    measured = measure_leakage(speech(about), about[['id','speaker']], resamples=1)
    assert set(measured['counts']) == {'speaker'} and len(measured['left_out']) == 4

def test_no_speakers():
    about = people()
    measured = measure_leakage(speech(about), about[['id','gender']], resamples=1)
    assert set(measured['left_out']) == NAMES
    assert measured['left_out']['gender_probe'] == 'no recording with a speaker has a gender'

def test_one_speaker():
    about = people(1, 6)
    measured = measure_leakage(speech(about), about, resamples=1)
    assert set(measured['left_out']) == NAMES
    assert measured['left_out']['speaker_probe'].endswith('(s0: 2)')

def test_recordings_without_a_speaker_are_not_used():
    about = people()
    about.loc[about.speaker == 's0', 'speaker'] = ''
    measured = measure_leakage(speech(people()), about, resamples=1)
    assert measured['counts']['speaker']['speakers'] == 7

def test_speech_too_short_for_a_piece():
    about = people()
    measured = measure_leakage(speech(about, 10), about, resamples=1)
    assert set(measured['left_out']) == NAMES and measured['left_out']['speaker_probe'].endswith('(none)')
    assert measure_leakage(speech(about, 10), about, 0.4, resamples=1)['speaker_probe'].value == 1

def test_empty_recordings():
    about = people()
    codes = speech(about).codes | {'7-0':[], '7-1':[]}
    measured = measure_leakage(Tokens(codes, 25, 32), about, resamples=1)
    assert measured['counts']['gender']['speakers'] == 7

def test_tables_that_do_not_fit():
    about = people()
    with pytest.raises(QuantizerError, match="no column 'id'; its columns are: name, speaker"):
        measure_leakage(speech(about), about.rename(columns=dict(id='name')))
    with pytest.raises(QuantizerError, match="none of 16 recordings is in the table"):
        measure_leakage(speech(about), about.assign(id='x'))

def test_a_speaker_of_two_languages_is_held_out_whole():
    about = people()
    about['language'] = ['es','fr']*8
    measured = measure_leakage(speech(about), about, resamples=1)
    assert measured['language_probe'].value < 0.8 # tokens name the speaker only

@pytest.mark.parametrize('seed', range(12))
def test_any_small_corpus_ends_with_numbers_or_a_reason(seed):
    rng = np.random.default_rng(seed)
    about = people(int(rng.integers(1, 7)), int(rng.integers(1, 4)))
    about['language'] = rng.choice(['','de','es','fr'], len(about))
    about['gender'] = rng.choice(['F','M'], len(about)) # not one of a speaker
    lengths = rng.integers(1, 300, len(about))
    tokens = Tokens({id:rng.integers(4, size=n) for id,n in zip(about.id, lengths)}, 25, 4)
    measured = measure_leakage(tokens, about, resamples=2, seed=seed)
    assert set(measured['left_out']) | set(values(measured)) == NAMES
    assert all(0 <= o <= 1 for o in values(measured).values())

def test_a_codebook_larger_than_memory_and_many_codes():
    rng = np.random.default_rng(0)
    X = histograms([rng.integers(2**60, size=(150,2)) for _ in range(20)])
    assert X.shape == (20,4096)
    assert (X.power(2).sum(1) <= 2).all()

def test_features():
    about,rng = people(),np.random.default_rng(0)
    def frames(s): return np.c_[rng.normal(size=(200,8))+3*np.eye(8)[int(s[1:])], np.full(200, 7.)] # the last is constant
    feats = {id:frames(s) for id,s in zip(about.id, about.speaker)}
    measured = feature_leakage(feats, 25, about, resamples=1)
    assert measured['speaker_probe'].value > 0.9
    assert abs(measured['speaker_chance'].value-1/8) < 0.2

def test_unbalanced_classes():
    "Always naming the largest class has 1/2, not 0.9"
    groups = np.repeat(np.arange(20), 3)
    labels = np.where(groups < 18, 'M', 'F')
    X = np.ones((60,2))
    assert linear_probe(X, labels, groups).value == pytest.approx(0.5)

def test_shuffling_keeps_the_labels_of_each_half():
    about = pd.DataFrame([dict(label=s, speaker=s, half=h) for s in 'abcdef' for h in (0,1) for _ in range(3)])
    for seed in range(5):
        about['new'] = shuffle_labels(about, seed)
        assert (about.groupby(['speaker','half']).new.nunique() == 1).all()
        assert (about.groupby('half').new.nunique() == 6).all()
