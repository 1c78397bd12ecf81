"""Write English speech of other kinds than that of read_speech.py: `python tests/unheard_speech.py FOLDER`, after `python tests/read_speech.py FOLDER`.
`prompts.tsv`: telephone prompts, every second one; `noisy.tsv`: the read speech that is held out, in white noise at 10 dB"""
import os, sys
from pathlib import Path
import soundfile as sf
from quantizer.data.corpus import Corpus
from quantizer.evaluate.perturbations import perturb
from read_speech import COLUMNS

def save(df, path):
    "Write a manifest without a split: all of it is measured"
    df[[o for o in COLUMNS if o != 'split']].to_csv(path, sep='\t', index=False, quoting=3)

def write_prompts(out, data):
    "Prompts of at least 1.5 s, whose texts are known"
    df = Corpus.load(data/'manifest.tsv', dict(label='text')).df
    df = df[df.path.str.startswith('prompts/') & (df.language == 'en') & (df.duration_s > 1.5)].iloc[::2]
    save(df.assign(path=[str(data/o) for o in df.path]), out/'prompts.tsv')

def write_noisy(out, sample_rate=16000):
    "Copies in noise"
    corpus = Corpus.load(out/'manifest.tsv').part('valid')
    (out/'noisy').mkdir(exist_ok=True)
    names = [Path(o).name for o in corpus.df.path]
    paths = [str((out/'noisy'/Path(o).with_suffix('.wav')).absolute()) for o in names]
    for recording,name,path in zip(corpus, names, paths):
        wav = perturb(recording.audio(sample_rate), sample_rate, 'white_10db', name)
        sf.write(path, wav.numpy(), sample_rate, subtype='FLOAT')
    save(corpus.df.assign(path=paths), out/'noisy.tsv')

if __name__ == '__main__':
    out = Path(sys.argv[1])
    write_prompts(out, Path(os.environ['QUANTIZER_DATA']).absolute()/'data'/'dev')
    write_noisy(out)
