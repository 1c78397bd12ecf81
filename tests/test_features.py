"Every extractor that can be made offline keeps its promises, for recordings of any length"
import os, warnings

from quantizer.all import FEATURES, QuantizerError, pad_batch # first: it makes `import torchvision` work, which transformers does
import pytest, torch, transformers
from hypothesis import given, settings, strategies as st

os.environ['HF_HUB_OFFLINE'] = '1'
made = {'logmel':{}, 'mfcc':{}, 'whisper_logmel':{}, 'fbank':{}, 'whisper':{}, 'ssl':{}, 'logmel 22050':dict(sample_rate=22050, win_length=512, hop_length=256), 'mfcc one delta':dict(deltas=1, n_mels=23),
    'fbank snip':dict(snip_edges=True), 'fbank odd':dict(hop_length=101, win_length=202), 'whisper padded':dict(pad=True, layer=1), 'ssl large':dict(layer=-1)}
settings.register_profile('quantizer', deadline=None, derandomize=True, database=None)
settings.load_profile('quantizer')

@pytest.fixture(scope='module', params=made)
def ext(request, tmp_path_factory):
    name,args = request.param.split()[0],made[request.param]
    if name in ('whisper','ssl'):
        t,d = transformers,tmp_path_factory.mktemp('model')
        torch.manual_seed(0)
        if name == 'whisper': net = t.WhisperModel(t.WhisperConfig(d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
            max_source_positions=250, vocab_size=8, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0)) # windows of 5 s
        else:
            big = 'large' in request.param
            net = t.WavLMModel(t.WavLMConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=[8]*7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
                feat_extract_norm='layer' if big else 'group', do_stable_layer_norm=big))
            t.Wav2Vec2FeatureExtractor(do_normalize=big).save_pretrained(d)
        net.save_pretrained(d)
        args = dict(layer=1)|args|dict(model=str(d))
    return FEATURES[name](**args)

def noise(n, seed=0): return torch.randn(n, generator=torch.Generator().manual_seed(seed))/10

def test_all_are_tested(): assert {o.split()[0] for o in made}==set(FEATURES)

def test_batched_is_alone(ext):
    "Features of a recording are those that it has alone, wherever a batch ends; beyond they are zero"
    @settings(max_examples=25)
    @given(st.lists(st.integers(ext.win_length, 20000), min_size=1, max_size=4), st.integers(0, 1000))
    def check(lengths, extra):
        wavs = [noise(n, k) for k,n in enumerate(lengths)]
        x,m = pad_batch([*wavs, noise(max(lengths)+extra)])
        x = x.masked_fill(~m, 7.)[:-1]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            feats,mask = ext(x, torch.tensor(lengths))
            alone = [ext(w[None])[0][0] for w in wavs]
        assert mask.sum(1).tolist()==[ext.num_frames(n) for n in lengths]==ext.num_frames(torch.tensor(lengths)).tolist()
        assert not feats[~mask].any()
        atol = 5e-5 if ext.name in ('whisper','ssl') else 1e-5 # networks add in another order
        for f,k,a in zip(feats, mask, alone): torch.testing.assert_close(f[k], a, rtol=1e-5, atol=atol)
    check()

def test_num_frames(ext):
    "As many frames as promised"
    @settings(max_examples=60)
    @given(st.integers(ext.win_length, 4000))
    def check(n): assert ext(noise(n)[None])[0].shape==(1, ext.num_frames(n), ext.dim)
    check()

def test_windows(ext):
    "The pieces of a long recording begin at whole seconds, overlap, and hold all frames once"
    @given(st.integers(ext.win_length, 10**9))
    def check(n):
        pieces,sr = ext.windows(n),ext.sample_rate
        assert sum(keep for *_,keep in pieces)==ext.num_frames(n) and min(keep for *_,keep in pieces) > 0
        assert pieces[0][0]==pieces[0][2]==0 and pieces[-1][1]==n
        for (_,hi,*_),(lo,_,drop,_) in zip(pieces, pieces[1:]): assert lo%sr==0 and lo%ext.hop_length==0 and hi-lo >= 2*drop*ext.hop_length > 0
        for lo,hi,drop,keep in pieces: assert hi-lo >= ext.win_length and drop+keep <= ext.num_frames(hi-lo)
        if n <= ext.window_s*sr: assert len(pieces)==1
    check()

def test_pieces_are_the_whole(ext):
    "Extracted in pieces, a long recording has the features of the whole; those of Whisper's log-mel up to the loudest value of a piece"
    if ext.name in ('whisper','ssl'): n = int(2.5*ext.window_s*ext.sample_rate)
    else: n = int(min(2.5*ext.window_s, 300)*ext.sample_rate)
    x = noise(n)
    pieces = torch.cat([ext(x[None,lo:hi])[0][0,drop:drop+keep] for lo,hi,drop,keep in ext.windows(n)])
    torch.testing.assert_close(pieces, ext(x[None])[0][0], rtol=1e-5, atol=0.1 if ext.name=='whisper_logmel' else 1e-5)

def test_double_precision(ext):
    "Float32 is enough: 64 bits give the same"
    if ext.name in ('whisper','ssl'): pytest.skip('a network has the type of its weights')
    x = noise(16000)
    torch.testing.assert_close(ext.double()(x[None].double())[0].float(), ext.float()(x[None])[0], rtol=1e-4, atol=1e-3)

def test_too_short(ext):
    with pytest.raises(QuantizerError, match='shorter than one frame'): ext(noise(ext.win_length-1)[None])
