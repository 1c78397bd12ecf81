"How long a recording is: formats x what headers claim x damage, compared with what ffmpeg decodes, or with what was written"
import shutil, struct, subprocess, time
from pathlib import Path

import numpy as np, pytest, soundfile as sf
from quantizer.data.audio import AudioBytes, AudioError, has_audio_suffix, load_audio, probe

SR,N = 16000,24000  # as many samples fill the blocks of GSM, G.721 and NMS, an odd number of blocks of GSM
SUFFIXES = {'WAVEX':'wav', 'NIST':'sph'}
WRITTEN = [o for o in (  # by soundfile
    *(('WAV', o) for o in 'PCM_16 PCM_24 PCM_32 PCM_U8 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610 G721_32 NMS_ADPCM_16 NMS_ADPCM_24 NMS_ADPCM_32'.split()),
    *(('AIFF', o) for o in 'PCM_S8 PCM_16 PCM_24 PCM_U8 FLOAT ULAW ALAW IMA_ADPCM GSM610 DWVW_16 DWVW_24'.split()),
    *(('AU', o) for o in 'PCM_S8 PCM_16 FLOAT ULAW ALAW G721_32 G723_24 G723_40'.split()),
    *(('W64', o) for o in 'PCM_16 FLOAT ULAW IMA_ADPCM MS_ADPCM GSM610'.split()),
    *(('CAF', o) for o in 'PCM_16 ULAW ALAC_16 ALAC_24'.split()),
    *(('RF64', o) for o in 'PCM_16 ALAW'.split()), *(('NIST', o) for o in 'PCM_16 ULAW ALAW'.split()), ('WAVEX', 'PCM_24'),
    ('FLAC', 'PCM_16'), ('FLAC', 'PCM_24'), ('OGG', 'VORBIS'), ('OGG', 'OPUS'), ('MP3', 'MPEG_LAYER_III'))]
BY_FFMPEG = dict(  # each to a file, and to what cannot be sought, as a pipe
    pcm='wav', mulaw='wav -c:a pcm_mulaw', ima='wav -c:a adpcm_ima_wav', ms='wav -c:a adpcm_ms', gsm='wav -c:a libgsm_ms -ar 8000',
    rf64='wav -rf64 always', mp3_in='wav -c:a libmp3lame', aiff='aiff', au='au', g726='au -c:a adpcm_g726le -ar 8000', w64='w64', caf='caf',
    flac='flac', vorbis='ogg -c:a libvorbis', opus='opus -c:a libopus', mp2='mp2', cbr='mp3 -b:a 32k', vbr='mp3 -q:a 4',
    headless='mp3 -q:a 4 -write_xing 0', steady='mp3 -b:a 32k -write_xing 0', low='mp3 -q:a 9 -ar 8000 -write_xing 0', wide='mp3 -b:a 64k -ar 44100 -ac 2',
    whole_id3='mp3 -q:a 4 -id3v2_version 3 -write_id3v1 1')
NOT_BY_FFMPEG = {'WAV_NMS_ADPCM_16', 'WAV_NMS_ADPCM_24', 'WAV_NMS_ADPCM_32', 'AIFF_GSM610', 'AIFF_DWVW_16', 'AIFF_DWVW_24', 'pipe_rf64', 'pipe_aiff', 'pipe_w64'}

pytestmark = pytest.mark.skipif(not shutil.which('ffmpeg'), reason='ffmpeg is not installed')

def signal(n=N): return 0.3*np.sin(np.arange(n)**1.3/30) + 0.03*np.random.default_rng(n).standard_normal(n)

def run_ffmpeg(*args): subprocess.run(['ffmpeg', '-nostdin', '-v', 'quiet', '-y', *map(str, args)], check=True)

def make_files(folder):
    "Paths by name"
    paths = {}
    for kind,subtype in WRITTEN:
        p = paths[f'{kind}_{subtype}'] = folder/f'{kind}_{subtype}.{SUFFIXES.get(kind, kind.lower())}'
        sf.write(p, signal(), SR, format=kind, subtype=subtype)
    outputs = []
    for name,args in BY_FFMPEG.items():
        suffix,*options = args.split()
        for to,seekable in dict(file=-1, pipe=0).items():
            p = paths[f'{to}_{name}'] = folder/f'{to}_{name}.{suffix}'
            outputs += [*options, '-seekable', seekable, p]
    run_ffmpeg('-i', paths['WAV_PCM_16'], *outputs)
    return paths

def ffmpeg_counts(paths, folder):
    "Samples that ffmpeg decodes, at the rates that files have for us"
    names = [k for k in paths if k not in NOT_BY_FFMPEG]
    ins = [o for k in names for o in ('-i', paths[k])]
    outs = [o for i,k in enumerate(names) for o in ('-map', f'{i}:a', '-ac', '1', '-f', 's16le', folder/f'{k}.raw')]
    run_ffmpeg(*ins, *outs)
    return {k: (folder/f'{k}.raw').stat().st_size//2 // (3 if 'opus' in k.lower() else 1) for k in names}

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lengths')
    paths = make_files(folder)
    return paths,ffmpeg_counts(paths, folder)

def lengths(src):
    "What `probe` and `load_audio` say, if spans are what the whole has there"
    info,whole = probe(src),load_audio(src, None)
    n,sr = len(whole),info.sample_rate
    tolerance = 0.03 if 'opus' in f'{src} {info.format}'.lower() else 1e-5  # a decoder of Opus needs some time to find the samples
    for first,last in (0, n//3), (n//3, n//2), (n*9//10, n):
        span = load_audio(src, None, first/sr, (last-first)/sr)
        same = len(span) == last-first and (span-whole[first:last]).abs().max() < tolerance
        if not same: return f'another span from {first} to {last}'
    return info.samples,n

def error(src):
    try: return lengths(src)
    except AudioError as e: return e.kind

def test_as_ffmpeg(files, capfd):
    "More than a hundred files have as many samples as ffmpeg decodes (MP3: within one frame), and spans agree, without a word on the terminal"
    paths,counts = files
    assert len(paths) > 100 and all(has_audio_suffix(str(o)) for o in paths.values())
    wrong = {}
    for name,path in paths.items():
        ours,right = lengths(path),counts.get(name, N)
        is_mp3 = path.suffix == '.mp3' or 'mp3' in name
        if not (ours == (right, right) or is_mp3 and ours[0] == ours[1] and abs(ours[0]-right) <= 1152): wrong[name] = (ours, right)
    assert not wrong
    assert capfd.readouterr().err == ''

def test_ffmpeg_agrees_with_what_was_written(files):
    "The reference itself: one and a half seconds, rounded up to whole blocks"
    for name,n in files[1].items(): assert 0 <= n/(8000 if name.endswith(('gsm','g726','low')) else 44100 if name.endswith('wide') else SR)-N/SR < 0.2, name

def wav(n, whole=None, data=None, bits='<I'):
    "A WAV file of `n` samples, with these numbers of bytes in its header"
    body = (1000*signal(n)).astype('<i2').tobytes()
    head = b'WAVEfmt ' + struct.pack('<IHHIIHH', 16, 1, 1, SR, 2*SR, 2, 16)
    return b'RIFF' + struct.pack('<I', 36+2*n if whole is None else whole) + head + b'data' + struct.pack('<I', 2*n if data is None else data) + body

def au(n, data=None):
    return b'.snd' + struct.pack('>IIIII', 24, 2*n if data is None else data, 3, SR, 1) + (1000*signal(n)).astype('>i2').tobytes()

def with_number(data, at, *numbers):
    return data[:at] + struct.pack(f'>{len(numbers)}I', *numbers) + data[at+4*len(numbers):]

def claims(paths):
    "Files whose header is wrong, or that hold more than one recording; and how many samples there are"
    unknown = 2**32-1
    flac,other = paths['FLAC_PCM_16'].read_bytes(),paths['pipe_flac'].read_bytes()
    mp3,headless = paths['file_vbr'].read_bytes(),paths['file_headless'].read_bytes()
    mark,id3,ape = mp3.index(b'Xing'),b'ID3\4\0\0\0\0\1\0'+bytes(128),b'APETAGEX'+struct.pack('<III', 2000, 56, 0)+bytes(12+56)
    plain,first,frames = headless[headless.index(b'\xff\xf3'):],mp3[mark-13:mark],len(headless[headless.index(b'\xff\xf3'):])
    n_headless = len(load_audio(paths['file_headless'], None))
    vbri = (first[:4]+bytes(32)+b'VBRI'+struct.pack('>HHHII', 1, 0, 50, frames, 43)).ljust(144, b'\0')
    vorbis,opus = paths['OGG_VORBIS'].read_bytes(),paths['OGG_OPUS'].read_bytes()
    return dict(
        wav_pipe=(wav(N, unknown, unknown), N), wav_sox=(wav(N, 0x7ffff024, 0x7ffff000), N), wav_zero=(wav(N, 0, 0), N), wav_crashed=(wav(N, 36, 0), N),
        wav_no_data=(wav(N, data=0), N), wav_no_whole=(wav(N, whole=0), N), wav_long=(wav(N, data=3*N), N), wav_short_whole=(wav(N, whole=N), N),
        wav_tag=(wav(N)+id3, N), wav_chunk=(wav(N)+b'LIST'+struct.pack('<I', 6000)+b'\1'*6000, N), wav_zeros=(wav(N)+bytes(9000), N), wav_junk=(wav(N)+b'\1'*999, N),
        wav_wav=(wav(N)+wav(5000), N+5000), wav_pipe_last=(wav(N)+wav(5000, unknown, unknown), N+5000), wav_flac=(wav(N)+flac, 2*N),
        au_zero=(au(N, 0), N), au_pipe=(au(N, unknown), N), au_au=(au(N)+au(999), N+999),
        flac_0=(with_number(flac, 22, 0), N), flac_short=(with_number(flac, 22, 9999), N), flac_flac=(flac+flac, 2*N), flac_pipe_flac=(other+flac+other, 3*N),
        flac_tag=(flac+b'TAG'+bytes(125), N), flac_id3=(id3+flac, N),
        mp3_few=(with_number(mp3, mark+8, 20), N), mp3_many=(with_number(mp3, mark+8, 200), N), mp3_both=(with_number(mp3, mark+8, 20, 999), N),
        mp3_zero=(with_number(mp3, mark+8, 0, 0), N), mp3_no_numbers=(with_number(mp3, mark+4, 0), n_headless), mp3_vbri=(vbri+plain, n_headless),
        mp3_vbri_0=(with_number(vbri, 46, 0, 0)+plain, n_headless), mp3_tags=(id3+bytes(500)+plain+ape+b'TAG'+bytes(125), n_headless),
        mp3_cut_in=(plain[50:], n_headless-576), mp3_mp3=(mp3+mp3, 2*N), mp3_headless=(mp3+ape+headless, N+n_headless), mp3_junk=(plain+bytes(range(1, 200))*9, n_headless),
        ogg_ogg=(vorbis+vorbis, 2*N), ogg_opus=(vorbis+opus, 2*N), opus_3=(opus*3, 3*N))

def test_claims(files, capfd):
    "What is plainly whole is read in full, whatever its header says; from memory and from a file with any name"
    wrong = {}
    for name,(data,right) in claims(files[0]).items():
        ours = lengths(AudioBytes(name, data))
        if ours != (right, right): wrong[name] = (ours, right)
    assert not wrong
    assert capfd.readouterr().err == ''

def test_local_file(files, tmp_path):
    "A file on the disk is read as its bytes are"
    for name,(data,right) in claims(files[0]).items():
        (tmp_path/f'{name}.mp3').write_bytes(data)
        assert probe(tmp_path/f'{name}.mp3').samples == right, name

def damages(paths):
    "Files that lack a part, or that have more than their header says; and the kind of the error"
    cut = {f'{k}_cut': (paths[k].read_bytes()[:-4000], 'truncated') for k in ('WAV_PCM_16', 'WAV_GSM610', 'WAV_IMA_ADPCM', 'AIFF_PCM_16', 'AIFF_IMA_ADPCM',
        'AU_PCM_16', 'AU_G721_32', 'W64_PCM_16', 'CAF_PCM_16', 'RF64_PCM_16', 'NIST_PCM_16', 'OGG_VORBIS', 'OGG_OPUS', 'MP3_MPEG_LAYER_III', 'file_vbr', 'file_cbr')}
    mp3,headless,flac = (paths[k].read_bytes() for k in ('file_vbr','file_headless','FLAC_PCM_16'))
    vorbis,other = paths['OGG_VORBIS'].read_bytes(),paths['file_wide'].read_bytes()
    def hole(data, n): return data[:len(data)//2] + bytes(n) + data[len(data)//2+n:]
    return cut | dict(
        wav_stale=(wav(N, 36+9000, 9000), 'length'), au_stale=(au(N, 9000), 'length'), wav_cut_no_whole=(wav(N, whole=0)[:-4000], 'truncated'),
        wav_half=(wav(N, 36+4*N, 4*N), 'truncated'), flac_half=(flac[:-9000], 'truncated'), flac_cut=(flac[:-999], 'damaged'), flac_cut_first=(flac[:-9000]+flac, 'truncated'), flac_long=(with_number(flac, 22, N+5000), 'truncated'), ogg_cut_first=(vorbis[:-3000]+vorbis, 'truncated'),
        mp3_hole=(hole(mp3, 900), 'damaged'), headless_hole=(hole(headless, 900), 'damaged'), mp3_late=(bytes(3000)+headless[200:], 'damaged'),
        two_rates=(mp3+other, 'refused'))

def test_damage(files, capfd):
    "What is not whole is refused by name, and without a word of the decoder on the terminal"
    kinds = {name: error(AudioBytes(name, data)) for name,(data,_) in damages(files[0]).items()}
    assert kinds == {name: kind for name,(_,kind) in damages(files[0]).items()}
    assert capfd.readouterr().err == ''

def test_many_spans(files, capfd):
    "Each span of an MP3 is what the whole has there, wherever it begins"
    for name in ('file_vbr', 'file_headless', 'file_low', 'file_wide', 'MP3_MPEG_LAYER_III', 'file_mp2', 'file_mp3_in'):
        path = files[0][name]
        whole,sr = load_audio(path, None),probe(path).sample_rate
        for first in range(0, len(whole)-1000, 1777):
            assert (load_audio(path, None, first/sr, 900/sr)-whole[first:first+900]).abs().max() < 1e-5, (name, first)
    assert capfd.readouterr().err == ''

def test_codec(monkeypatch):
    "What torchcodec decodes counts, not the duration that it estimates"
    import torch
    from types import SimpleNamespace
    samples = torch.linspace(-1, 1, 17000)
    about = SimpleNamespace(sample_rate=SR, num_channels=1, codec='aac', duration_seconds=1.)
    decoder = SimpleNamespace(metadata=about, get_all_samples=lambda: SimpleNamespace(data=samples[None]))
    monkeypatch.setattr('quantizer.data.decoders._codec_decoder', lambda f: decoder)
    assert lengths(AudioBytes('a.aac', b'\xff\xf1'+bytes(99))) == (17000, 17000)

def test_hostile(files, capfd):
    "Files made of parts, tags or beginnings are refused or read within seconds, and the decoder says nothing"
    mp3 = files[0]['file_headless'].read_bytes()
    start = mp3[mp3.index(b'\xff\xf3'):][:4]
    data = dict(parts=wav(1)*3000, tags=b'ID3\4\0\0\0\0\0\0'*10**5, starts=start*10**6, after=mp3+start*10**6, chunks=b'RIFF\0\0\1\0WAVE'+b'abcd\0\0\0\0'*10**6,
        pages=(b'OggS\0\2'+bytes(20)+b'\1\0')*10**5, flacs=b'fLaC\0\0\0"'*10**6, pieces=(mp3[:80]+b'ID3\4'+bytes(6))*10**4)
    for name,o in data.items():
        begin = time.process_time()
        error(AudioBytes(name, o))
        assert time.process_time()-begin < 2, name
    assert error(AudioBytes('parts.wav', data['parts'])) == 'refused'
    assert capfd.readouterr().err == ''
