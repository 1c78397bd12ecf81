"Measures of decoded features and of sound: odd cases"
import importlib.util, math, sys

from quantizer.all import QuantizerError # first: it makes `import torchvision` work
import numpy as np, pytest, soundfile, torch
from quantizer.data.corpus import Corpus
from quantizer.data.features import FBank, LogMel, MFCC, WhisperLogMel
from quantizer.evaluate.signal import NRE, SignalMeasures
from quantizer.evaluate.sound import SoundMeasures, match_lengths, measure_signal, pesq, si_sdr, stoi
from quantizer.models.autoencoder import build_model, check_model
from quantizer.tokens.tokenizer import Tokenizer

def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs {package}: pip install 'quantizer[sound]'")

def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))/10
def same(x): return x

@pytest.fixture
def pairs():
    "Features, decoded features with NaN in the padding, and mask, of three recordings"
    x = noise(3, 50, 39)
    mask = torch.arange(50) < torch.tensor([50,30,2])[:,None]
    y = torch.where(mask[...,None], 0.9*x+noise(3, 50, 39, seed=1)/10, math.nan)
    return x,y,mask

def added(pairs, extractor=MFCC(), pieces=1):
    measures = SignalMeasures(extractor, same)
    for i,batch in enumerate(zip(*pairs)):
        for part in zip(*(o[None].chunk(pieces, 1) for o in batch)): measures.add(f'r{i}', *part)
    return measures

def test_same_as_nre(pairs):
    "The error of all recordings is that of one batch, padding left out"
    nre = NRE()
    nre.add(*pairs)
    assert added(pairs).estimates()['nre'].value == pytest.approx(nre.value, rel=1e-12)

def test_means_are_of_frames(pairs):
    x,y,mask = pairs
    res = added(pairs).estimates()
    cosine = torch.nn.functional.cosine_similarity(x[mask].double(), y[mask].double(), -1)
    assert res['cosine_similarity'].value == pytest.approx(cosine.mean().item(), rel=1e-12)
    mcd = 10/math.log(10)*((x-y)[mask][:,1:13].double().square().sum(1)/40).sqrt() # 2*c^2/(2*40)
    assert res['mcd'].value == pytest.approx(mcd.mean().item(), rel=1e-6)

def test_pieces_and_order(pairs):
    "A recording may be added in pieces, and recordings in any order"
    whole,pieces = added(pairs).estimates(),added(pairs, pieces=4).estimates()
    turned = SignalMeasures(MFCC(), same)
    for i in (2,0,1): turned.add(f'r{i}', *(o[i:i+1] for o in pairs))
    for other in (pieces,turned.estimates()):
        for name,estimate in whole.items():
            assert other[name].value == pytest.approx(estimate.value, rel=1e-12)
            assert other[name].drawn_by == estimate.drawn_by

def test_groups(pairs):
    res = added(pairs).estimates(dict(r0='ann', r1='bob', r2='ann'), resamples=10)
    assert {o.groups for o in res.values()} == {2}

@pytest.mark.parametrize('extractor,reasons', [
    (LogMel(), {}), (FBank(), {}), (WhisperLogMel(), {}),
    (MFCC(), dict(lsd="'mfcc' features are no log-mel spectrum")),
    (MFCC(n_mfcc=12), dict(lsd="'mfcc' features are no log-mel spectrum", mcd="'mfcc' has 12 coefficients or bands: expected more than 12")),
    (LogMel(8), dict(mcd="'logmel' has 8 coefficients or bands: expected more than 12"))])
def test_left_out(extractor, reasons):
    measures = SignalMeasures(extractor, same)
    assert measures.left_out == reasons
    measures.add('r', noise(1, 9, extractor.dim), noise(1, 9, extractor.dim), torch.ones(1, 9).bool())
    assert {*measures.estimates()} == {'nre','cosine_similarity','mcd','lsd'} - {*reasons}

def test_unknown_feature():
    "A feature of a plugin, or of a network, has an error and a cosine"
    class Own(LogMel): pass
    own = Own()
    own.name = 'own'
    assert {*SignalMeasures(own, same).left_out} == {'mcd','lsd'}

def test_nothing_and_nan(pairs):
    with pytest.raises(QuantizerError, match='no recording to measure'): SignalMeasures(MFCC(), same).estimates()
    x,y,mask = pairs
    assert all(math.isnan(o.value) for o in added((x, y*math.nan, mask)).estimates().values())
    still = added((0*x, 0*y, mask)).estimates()
    assert math.isnan(still['nre'].value) and still['mcd'].value == 0

@pytest.mark.parametrize('decoded,error', [
    (noise(16000-1601), 'the reference has 16,000 samples and the decoded waveform 14,399: expected lengths that differ by up to 0.1 s'),
    (noise(16000)[:0], 'the reference has 16,000 samples and the decoded waveform 0'),
    (torch.zeros(16000), 'the decoded waveform is silent'),
    (noise(1, 16000), r'got the decoded waveform of shape \(1, 16000\): expected \(S,\)'),
    (np.zeros(16000, np.int16), 'got the decoded waveform of int16: expected floats'),
    (noise(16000)/0, 'the decoded waveform: holds NaN or infinite samples')])
def test_refused_pairs(decoded, error):
    with pytest.raises(QuantizerError, match=error): match_lengths(noise(16000), decoded, 16000)

def test_lengths():
    x,y = match_lengths(noise(16000).numpy(), noise(17600).double(), 16000)
    assert len(x) == len(y) == 16000 and x.dtype == y.dtype == torch.float32
    with pytest.raises(QuantizerError, match='the reference is silent'): match_lengths(noise(0), noise(0), 16000)
    with pytest.raises(QuantizerError, match='the sample rate is'): match_lengths(noise(9), noise(9), 0)

def test_si_sdr():
    "Of a mean and a gain it knows nothing; a constant has no energy"
    x = noise(16000)
    rest = noise(16000, seed=1)
    value = si_sdr(x, x+rest, 16000)
    assert abs(value) < 0.2
    assert si_sdr(x+0.3, 5*(x+rest)-0.1, 16000) == pytest.approx(value, abs=1e-3)
    assert math.isfinite(si_sdr(x, torch.full_like(x, 0.1), 16000))
    assert si_sdr(torch.full_like(x, 0.1), x, 16000) == -100

def test_without_packages(monkeypatch):
    for package in ('pystoi','pesq'): monkeypatch.setitem(sys.modules, package, None)
    measures = SoundMeasures()
    measures.add('r', noise(16000), noise(16000), 16000)
    assert {*measures.estimates()} == {'si_sdr'}
    assert measures.left_out['pesq'] == "needs the package pesq: pip install 'quantizer[sound]'"
    assert {*measures.left_out} == {'stoi','estoi','pesq'}
    with pytest.raises(QuantizerError, match='needs the package pystoi'): stoi(noise(16000), noise(16000), 16000)

@needs('pystoi')
def test_stoi():
    x = noise(16000)
    for rate in (8000,11025,16000,44100):
        for extended in (False,True):
            if len(x) > 0.4*rate: assert stoi(x, x, rate, extended) == pytest.approx(1, abs=1e-6)
    for wav in (noise(6399), torch.cat([noise(4000), torch.zeros(12000)])):
        with pytest.raises(QuantizerError, match='STOI needs 0.4 s of sound that is not silent'): stoi(wav, wav, 16000)

@needs('pesq')
def test_pesq():
    x = noise(24000)
    for rate in (16000,24000): assert pesq(x, x, rate) == pytest.approx(4.644, abs=1e-3)
    with pytest.raises(QuantizerError, match='wide-band PESQ needs 16,000 Hz: the sound has 8,000'): pesq(x, x, 8000)
    with pytest.raises(QuantizerError, match='PESQ: Buffer needs to be at least 1/4 of a second long'): pesq(x[:3999], x[:3999], 16000)

@needs('pesq')
def test_pesq_of_many_utterances():
    "A minute of bursts, where the ITU's code writes beyond its memory"
    x = noise(60*16000)*(torch.arange(60*16000)/16000 % 0.42 < 0.21)
    assert pesq(x, x+noise(60*16000, seed=1)/10, 16000) < 2

def test_left_out_recordings_keep_draws():
    "Measures of the same recordings can be compared, even if one of them has no value for some"
    measures = SoundMeasures(['si_sdr'])
    for i in range(6):
        x = noise(16000, seed=i)
        measures.add(f'r{i}', x, x+noise(16000, seed=9), 16000)
        measures.add(f'r{i}', x, x*(i > 0), 16000, '_copy')
    res = measures.estimates()
    assert res['si_sdr'].drawn_by == res['si_sdr_copy'].drawn_by
    assert (res['si_sdr'].groups, res['si_sdr_copy'].value) == (6,100)
    assert measures.left_out == dict(si_sdr_copy='1 of 6 recordings: the decoded waveform is silent')

def tokenizer(extractor):
    "Of random weights"
    torch.manual_seed(0)
    block = check_model(dict(encoder=dict(name='conv', width=8), quantizer=dict(name='vq', dim=4, codebook_size=8),
        decoder=dict(name='conv', width=8), losses=dict(mse=1.)))
    dim = extractor.dim
    return Tokenizer(dict(features=extractor.settings, model=block), build_model(block, torch.zeros(dim), torch.ones(dim)))

@pytest.fixture
def corpus(tmp_path):
    "Recordings of 2 s, 0.3 s and 10 ms, and silence"
    for name,wav in dict(long=noise(32000), short=noise(4800), tiny=noise(160), zero=torch.zeros(16000)).items():
        soundfile.write(tmp_path/f'{name}.wav', wav.numpy(), 16000)
    return Corpus.from_folder(tmp_path)

def test_corpus(corpus):
    "What cannot be used is left out and counted"
    res = measure_signal(tokenizer(MFCC()), corpus)
    assert {*res} == {'nre','cosine_similarity','mcd','left_out','problems'}
    assert {*res['problems']} == {'tiny.wav'} and 'shorter than one frame' in res['problems']['tiny.wav']
    assert res['nre'].groups == 3
    assert res['left_out']['stoi'] == "'mfcc' features cannot be turned into sound; 'logmel' can"
    with pytest.raises(QuantizerError, match='none of its 1 recordings can be used; the first: .*tiny.wav'):
        measure_signal(tokenizer(MFCC()), corpus.select([[*corpus.ids].index('tiny.wav')]))

@needs('pystoi')
def test_previews(corpus):
    res = measure_signal(tokenizer(LogMel(hop_length=200)), corpus)
    assert res['stoi'].value < res['stoi_preview'].value
    assert res['stoi'].groups == 3
    assert res['left_out']['stoi'].startswith('2 of 3 recordings: ')
    assert 'stoi' not in measure_signal(tokenizer(LogMel()), corpus, previews=0)
