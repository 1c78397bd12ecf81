"Promises where other people's reports say that tools break: one section a kind"
import csv
import io
import json
import tarfile
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from quantizer.all import Corpus, QuantizerError

# A text is read as its writer meant it, and a name that is not read is named

TEXTS = ['plain', 'say "hi"', '"whole"', 'a\ttab', 'two\nlines', "it's", '""', '"']

@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('quoting', [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_tsv_of_pandas(tmp_path, quoting, end):
    df = pd.DataFrame(dict(path=[f'{i}.wav' for i in range(len(TEXTS))], start_s=0.5, text=TEXTS))
    df.to_csv(tmp_path/'m.tsv', sep='\t', index=False, quoting=quoting, lineterminator=end)
    c = Corpus.load(tmp_path/'m.tsv')
    assert list(c.df.text) == TEXTS and list(c.df.path) == list(df.path) and set(c.df.start_s) == {0.5}

@pytest.mark.parametrize('text', ['"Yes," she said', 'say "hi"', '"whole"', '"', '"a""b"" c', '""', 'x "', '"unclosed'])
def test_tsv_with_bare_quotes(tmp_path, text):
    "Quotation marks of a text, in a file whose writer knows no quoting"
    (tmp_path/'m.tsv').write_text(f'path\ttext\na.wav\t{text}\nb.wav\t"both" here\nc.wav\tlast\n')
    assert list(Corpus.load(tmp_path/'m.tsv').df.text) == [text, '"both" here', 'last']

def said(f, *args):
    with warnings.catch_warnings(record=True) as res:
        warnings.simplefilter('always')
        f(*args)
    return [str(o.message) for o in res]

@pytest.mark.parametrize('column', ['Text', ' text', 'text ', 'TEXT', 'texts'])
@pytest.mark.parametrize('suffix', ['tsv', 'csv', 'parquet'])
def test_misspelt_column(tmp_path, column, suffix):
    df,path = pd.DataFrame({'path': ['a.wav','b.wav'], column: ['x','y'], 'label': ['u','v']}),tmp_path/f'm.{suffix}'
    df.to_parquet(path) if suffix == 'parquet' else df.to_csv(path, sep='\t' if suffix == 'tsv' else ',', index=False)
    assert said(Corpus.load, path) == [f"{path}: '{column}' is not read; if it is meant as 'text', rename it"]
    c = Corpus.load(path, {column: 'text'})
    assert list(c.df.text) == ['x','y'] and not said(Corpus.load, path, {column: 'text', 'label': 'speaker'})

def test_misspelt_key(tmp_path):
    "Keys of lhotse's lines and of tar members"
    def _line(i, **more): return dict(id=f'{i}', start=0., duration=0.1, recording=dict(id='r', sources=[dict(type='file', channels=[0], source=f'{i}.wav')]), supervisions=[dict(id='s', **more)])
    for name,more in dict(good=dict(speaker='x', text='y', language='en'), bad=dict(spekaer='x', Text='y', language='en')).items():
        (tmp_path/f'{name}.jsonl').write_text('\n'.join(json.dumps(_line(i, **more)) for i in range(2)))
        wav = io.BytesIO()
        sf.write(wav, np.zeros(800), 8000, format='WAV')
        with tarfile.open(tmp_path/f'{name}.tar', 'w') as t:
            for member,data in (('a.wav', wav.getvalue()), ('a.json', json.dumps(more).encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
    for suffix in ('jsonl','tar'):
        assert not said(Corpus.load, tmp_path/f'good.{suffix}')
        assert said(Corpus.load, tmp_path/f'bad.{suffix}') == [f"{tmp_path}/bad.{suffix}: '{found}' is not read; if it is meant as '{name}', rename it" for found,name in (('spekaer','speaker'), ('Text','text'))]

# An error is one line

def test_one_line(tmp_path):
    "Whatever a file holds: no line break, no command for the terminal, no half of a character, and not a megabyte"
    (tmp_path/'m.csv').write_text('path,start_s\na.wav,"' + 'x\n\x1b[2J'*10**5 + '"\n')
    with pytest.raises(QuantizerError) as e: Corpus.load(tmp_path/'m.csv')
    assert len(str(e.value)) < 1100 and str(e.value).isprintable() and "m.csv: row 1: 'start_s' is" in str(e.value)
