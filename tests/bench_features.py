"""Time of the features against the floor and peers: `python tests/bench_features.py [ROUNDS]`

Each comparison is interleaved: every round runs each method once over clips of 2 to 15 s, one clip at a time, so that what else the machine does
hits all alike. Times are medians over rounds of process CPU time, of one thread, without gradients. The floor is what cannot be left out: mirrored ends, windows, a Fourier
transform, power, one multiplication by the filter bank, a logarithm; deltas are not in it. Memory is reused, as in a process that has run for a while: in a fresh one, whose large
tensors are new pages each time, what works in chunks looks better than it is. Peers that are not installed are left out."""
import statistics, sys, time, warnings
from importlib.util import find_spec
import torch
from torch.nn.functional import pad
from quantizer.all import FBank, LogMel, MFCC, WhisperLogMel
import torchaudio
from torchaudio import transforms
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

SECONDS = (2, 3, 4, 6, 8, 11, 15)

def floor(ext, post=lambda x: (x+1e-6).log()):
    "The bare arithmetic of a spectral feature"
    def run(wav):
        x = pad(wav[None], (ext.win_length//2,)*2, mode='reflect')[0].unfold(0, ext.win_length, ext.hop_length)
        z = torch.fft.rfft(x*ext.window, 2*(len(ext.filters)-1))
        return post((z.real.square()+z.imag.square()) @ ext.filters)
    return run

def ours(ext): return lambda wav: ext(wav[None])[0]

def with_deltas(x):
    d = compute_deltas(x)
    return torch.cat([x, d, compute_deltas(d)])

def whisper_peers():
    res = {}
    try:
        from whisper.audio import log_mel_spectrogram
        res['openai-whisper'] = log_mel_spectrogram
    except ImportError: pass
    if find_spec('transformers'):
        from transformers import WhisperFeatureExtractor
        hf = WhisperFeatureExtractor(80)
        for k,p in (('transformers', False), ('transformers, padded to 30 s', 'max_length')): res[k] = lambda wav, p=p: hf(wav.numpy(), sampling_rate=16000, padding=p)
    return res

def cases():
    "Feature -> method -> function of a clip `(S,)`"
    mel = dict(n_fft=400, hop_length=160)
    logmel,mfcc,whisper,fbank = LogMel(),MFCC(deltas=0),WhisperLogMel(),FBank()
    their_mel,their_mfcc = transforms.MelSpectrogram(16000, n_mels=80, **mel),transforms.MFCC(16000, 13, log_mels=True, melkwargs=dict(n_mels=40, **mel))
    cepstra = floor(mfcc, lambda x: (x+1e-6).log() @ mfcc.dct)
    return {'logmel': dict(floor=floor(logmel), quantizer=ours(logmel), torchaudio=lambda w: (their_mel(w)+1e-6).log()),
        'mfcc': dict(floor=cepstra, quantizer=ours(mfcc), torchaudio=their_mfcc),
        'mfcc with deltas': dict(floor=cepstra, quantizer=ours(MFCC()), torchaudio=lambda w: with_deltas(their_mfcc(w))),
        'whisper_logmel': dict(floor=floor(whisper, lambda x: x.clamp(min=1e-10).log10()), quantizer=ours(whisper), **whisper_peers()),
        'fbank': dict(floor=floor(fbank), quantizer=ours(fbank), torchaudio=lambda w: kaldi.fbank(32768*w[None], num_mel_bins=80, snip_edges=False))}

@torch.no_grad()
def bench_features(rounds=31):
    "Rows with `feature`, `method`, `ms` for all clips, `audio_s` done in a CPU second, and `of_floor`, the speed as a share of the floor's"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.zeros(6*2**20) # 24 MB: from now on the allocator keeps blocks of such sizes
    clips,rows = [torch.randn(16000*s, generator=torch.Generator().manual_seed(s))/10 for s in SECONDS],[]
    for feature,methods in cases().items():
        times = {k:[] for k in methods}
        for r in range(rounds+2): # the first two warm up
            for k,f in methods.items():
                start = time.process_time()
                for o in clips: f(o)
                if r > 1: times[k].append(time.process_time()-start)
        s = {k:statistics.median(v) for k,v in times.items()}
        rows += [dict(feature=feature, method=k, ms=round(1000*v, 2), audio_s=round(sum(SECONDS)/v), of_floor=round(s['floor']/v, 2)) for k,v in s.items()]
    torch.set_num_threads(threads)
    return rows

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    print(f"{'feature':17} {'method':29} {'ms':>8} {'audio s / CPU s':>16} {'of the floor':>13}")
    for r in bench_features(*map(int, sys.argv[1:])): print(f"{r['feature']:17} {r['method']:29} {r['ms']:8.2f} {r['audio_s']:16,} {r['of_floor']:13.2f}")
