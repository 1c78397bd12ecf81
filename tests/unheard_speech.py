"""Write English speech of other kinds than that of read_speech.py: `python tests/unheard_speech.py FOLDER`, after `python tests/read_speech.py FOLDER`.
`prompts.tsv`: telephone prompts, every second one; `noisy.tsv`: the read speech that is held out, in white noise at 10 dB;
`czech.tsv`: dialogues of a game in Czech, with speakers held out"""
import os, sys
from pathlib import Path
import soundfile as sf
from quantizer.data.corpus import Corpus
from quantizer.evaluate.perturbations import perturb
from read_speech import COLUMNS

UNSPLIT = [o for o in COLUMNS if o != 'split'] # all of such a corpus is measured

def save(df, path, columns=UNSPLIT):
    "Write a manifest"
    df[columns].to_csv(path, sep='\t', index=False, quoting=3)

def write_prompts(corpus, out):
    "Prompts of at least 1.5 s, whose texts are known"
    df = corpus.df
    df = df[df.path.str.startswith('prompts/') & (df.language == 'en') & (df.duration_s > 1.5)].iloc[::2]
    save(df.assign(path=[str(corpus.root/o) for o in df.path]), out/'prompts.tsv')

def write_czech(corpus, out):
    "All dialogues"
    df = corpus.select((corpus.df.language == 'cs').to_numpy()).with_split(0.2, seed=0).df
    save(df.assign(path=[str(corpus.root/o) for o in df.path]), out/'czech.tsv', COLUMNS)

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
    data = Path(os.environ['QUANTIZER_DATA']).absolute()/'data'/'dev'
    corpus = Corpus.load(data/'manifest.tsv', dict(label='text'))
    write_prompts(corpus, out)
    write_czech(corpus, out)
    write_noisy(out)
