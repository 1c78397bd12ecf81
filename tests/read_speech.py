"Write a manifest of the read English speech in QUANTIZER_DATA: `python tests/read_speech.py OUT.tsv`"
import os, sys
from pathlib import Path
from quantizer.data.corpus import Corpus

def write(out):
    if 'QUANTIZER_DATA' not in os.environ: raise SystemExit('set QUANTIZER_DATA to a folder with data/dev and models/whisper-tiny.en')
    c = Corpus.load(Path(os.environ['QUANTIZER_DATA'])/'data'/'dev'/'manifest.tsv', dict(label='text'))
    c = c.select(c.df.path.str.startswith('librispeech/').to_numpy())
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    c.df.assign(path=[str(c.file(i)) for i in range(len(c))])[['path','duration_s','speaker','text','language']].to_csv(out, sep='\t', index=False, quoting=3)

if __name__ == '__main__': write(sys.argv[1])
