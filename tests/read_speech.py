"Write the read English speech in QUANTIZER_DATA as a corpus, with speakers held out and phone times: `python tests/read_speech.py FOLDER`"
import os, sys
from pathlib import Path
import pandas as pd
from quantizer.data.corpus import Corpus
from quantizer.evaluate.alignments import ALIGNMENTS

COLUMNS = ['path','duration_s','speaker','gender','text','language','split']

def write(out):
    "Write `manifest.tsv`, whose paths are absolute, and `alignments.tsv` with the same paths"
    if 'QUANTIZER_DATA' not in os.environ: raise SystemExit('set QUANTIZER_DATA to a folder with data/dev and models/whisper-tiny.en')
    out,data = Path(out),Path(os.environ['QUANTIZER_DATA']).absolute()/'data'/'dev'
    corpus = Corpus.load(data/'manifest.tsv', dict(label='text'))
    corpus = corpus.select(corpus.df.path.str.startswith('librispeech/').to_numpy()).with_split(0.2, seed=0)
    segments = pd.read_csv(data/ALIGNMENTS, sep='\t', keep_default_na=False)
    segments = segments[segments.path.isin(corpus.df.path)]
    out.mkdir(parents=True, exist_ok=True)
    for table,name in ((corpus.df[COLUMNS],'manifest.tsv'), (segments,ALIGNMENTS)):
        paths = [str(data/o) for o in table.path]
        table.assign(path=paths).to_csv(out/name, sep='\t', index=False, quoting=3)

if __name__ == '__main__': write(sys.argv[1])
