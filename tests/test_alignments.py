"Odd files of alignments: each is read rightly, or refused in one line that names it"
import random
import numpy as np, pandas as pd, pytest
from quantizer.core.errors import QuantizerError
from quantizer.data.corpus import Corpus
from quantizer.evaluate.alignments import Alignments, items, read_items

GO = [[0, 0.1, 'SIL', ''], [0.1, 0.18, 'G', 'go'], [0.18, 0.3, 'OW', 'go'], [0.3, 0.35, 'SIL', '']]

def textgrid(phones='"phones"', labels=('sil', 'G', 'OW', ''), words='"words"', line='\n'):
    "The short form: `go`, with a tier of points between the two others"
    times = zip(('0', '0.1', '0.18', '0.3'), ('0.1', '0.18', '0.3', '0.35'), labels)
    rows = [f'{start} {end} "{label}"' for start, end, label in times]
    return line.join(['File type = "ooTextFile"', 'Object class = "TextGrid"', '', '0', '0.35', '<exists>', '3',
        f'"IntervalTier" {words} 0 0.35 3', '0 0.1 ""', '0.1 0.3 "go"', '0.3 0.35 ""',
        '"TextTier" "clicks" 0 0.35 2', '0.05 "a ""loud"" one"', '0.2 "12"',
        f'"IntervalTier" {phones} 0 0.35 4', *rows, ''])

def rows(alignments, id='go'):
    return alignments.segments(id)[['start_s', 'end_s', 'phone', 'word']].values.tolist()

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be'])
@pytest.mark.parametrize('line', ['\n', '\r\n'])
def test_encodings(tmp_path, encoding, line):
    text = textgrid(labels=('sil', 'ɡ', 'ə"ʊ'.replace('"', '""'), 'SP'), line=line)
    bom = '\ufeff' if encoding == 'utf-16-be' else ''
    (tmp_path/'go.TextGrid').write_bytes((bom+text).encode(encoding))
    assert rows(Alignments.load(tmp_path)) == [[0, 0.1, 'SIL', ''], [0.1, 0.18, 'ɡ', 'go'], [0.18, 0.3, 'ə"ʊ', 'go'],
        [0.3, 0.35, 'SIL', '']]

@pytest.mark.parametrize('phones,words', [
    ('"Phones"', '"WORD"'),
    ('"ann - phones"', '"ann - words"'),
    ('"phone"', '"words "')])
def test_names_of_tiers(tmp_path, phones, words):
    path = tmp_path/'a b.go.textgrid'
    path.write_text(textgrid(phones, words=words))
    assert rows(Alignments.load(path), 'a b.go') == GO

def test_without_words(tmp_path):
    (tmp_path/'go.TextGrid').write_text(textgrid(words='"sentence"'))
    a = Alignments.load(tmp_path)
    assert rows(a) == [[*o[:3], ''] for o in GO]
    assert len(items(a, dict(go='ann'), 'word')) == 0

@pytest.mark.parametrize('change,message', [
    (lambda t: t[:len(t)//2], 'ends early'),
    (lambda t: t.replace('"phones"', '"segments"'), "its tiers are: words, segments; expected one 'phones'"),
    (lambda t: t.replace('"words"', '"phones"'), "its tiers are: phones, phones; expected one 'phones'"),
    (lambda t: t.replace('ooTextFile', 'ooBinaryFile'), 'not a TextGrid in text form'),
    (lambda t: t.replace('0.18 0.3 "OW"', '0.18 0.3 OW'), 'go.TextGrid'),
    (lambda t: t.replace('0.18 0.3', '0.18 9e999'), 'go.TextGrid: not a TextGrid that can be read'),
    (lambda t: t.replace('0.35 4', '0.35 1e300'), 'ends early'),
    (lambda t: t.replace('0.18 0.3', '0.18 0.1.3'), 'could not convert'),
    (lambda t: '', 'ends early')])
def test_wrong_textgrids(tmp_path, change, message):
    path = tmp_path/'go.TextGrid'
    path.write_text(change(textgrid()))
    with pytest.raises(QuantizerError, match=message) as e: Alignments.load(path)
    assert 'go' in str(e.value) and '\n' not in str(e.value)

def test_latin1(tmp_path):
    (tmp_path/'go.TextGrid').write_bytes(textgrid(labels=('sil', 'é', 'OW', '')).encode('latin-1'))
    with pytest.raises(QuantizerError, match="go.TextGrid: not a TextGrid that can be read .*utf-8"):
        Alignments.load(tmp_path)

def test_mutations(tmp_path):
    "Whatever is damaged, the error is for the user"
    rng, data, path = random.Random(0), textgrid().encode(), tmp_path/'go.TextGrid'
    for _ in range(200):
        i, j = sorted(rng.sample(range(len(data)), 2))
        inserted = rng.choice([b'', b'"', b' 7 ', b'\xff', data[i:j]*2, b'nan'])
        path.write_bytes(data[:i] + inserted + data[rng.choice([i, j, i+1]):])
        try: Alignments.load(path)
        except QuantizerError as e: assert '\n' not in str(e)

def test_missing_files(tmp_path):
    with pytest.raises(QuantizerError, match='no TextGrid in this folder'): Alignments.load(tmp_path)
    for name in ('a.tsv', 'a.TextGrid', 'a.align'):
        with pytest.raises(QuantizerError, match=f'{name}: no such file'): Alignments.load(tmp_path/name)

@pytest.mark.parametrize('text,message', [
    ('path\tstart_s\tend_s\tphone\n', 'holds no segments'),
    ('path\tstart_s\tend_s\tphon\na\t0\t1\tA\n', "no column 'phone'.*did you mean 'phon'"),
    ('path\t#file\tstart_s\tend_s\tphone\na\tb\t0\t1\tA\n', "two columns 'id'"),
    ('path\tstart_s\tend_s\tphone\na\t0\t1\tA\na\t1\t\tB\n', r"row 2 \(a\): end_s is '': expected seconds"),
    ('path\tstart_s\tend_s\tphone\na\t0\t1\tA\na\t1\tinf\tB\n', r"row 2 \(a\): end_s is 'inf'"),
    ('path\tstart_s\tend_s\tphone\na\t-1\t1\tA\n', r"row 1 \(a\): start_s is -1: expected 0 or more"),
    ('path\tstart_s\tend_s\tphone\na\t3\t4\tA\nb\t0\t1\tA\na\t0\t9\tB\n',
        r"row 1 \(a\): it starts at 3 s, before the end .* 9 s")])
def test_wrong_tables(tmp_path, text, message):
    path = tmp_path/'a.tsv'
    path.write_text(text)
    with pytest.raises(QuantizerError, match=message) as e: Alignments.load(path)
    assert str(path) in str(e.value)

def test_odd_tables(tmp_path):
    "Any order, labels that look like missing values or quotation marks, silences of another aligner"
    path = tmp_path/'a.tsv'
    path.write_text('id\tstart_s\tend_s\tphone\n7\t1\t2\tNA\n7\t0\t1\t"\n8\t0\t0\tx\n8\t0\t1\t_\n')
    a = Alignments.load(path)
    assert (a.ids, a.phones, a.table.phone.tolist()) == (['7', '8'], ['"', 'NA', '_', 'x'], ['"', 'NA', 'x', '_'])
    assert a.frame_phones('8', 3, 2).tolist() == [2, 2, -1] # the segment without length is nowhere
    assert Alignments.load(path, silences=('_',)).phones == ['"', 'NA', 'SIL', 'x']
    a.table.to_parquet(tmp_path/'a.parquet')
    assert Alignments.load(tmp_path/'a.parquet').table.equals(a.table)

@pytest.mark.parametrize('rate', [100, 75, 50, 21.5, 12.5])
def test_rates(rate):
    "Against a search of each centre"
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.integers(3, 30, 40)).astype(float)/100
    starts = np.r_[0, ends[:-1]]
    has_segment = rng.random(40) < 0.8
    df = pd.DataFrame(dict(id='x', start_s=starts, end_s=ends, phone=rng.permutation(40).astype(str)))
    a = Alignments(df[has_segment])
    found = a.frame_phones('x', 400, rate)
    for i, phone in enumerate(found):
        centre = (i+0.5)/rate
        inside = a.table.phone[(a.table.start_s <= centre+1e-6) & (centre+1e-6 < a.table.end_s)]
        assert inside.tolist() == ([a.phones[phone]] if phone >= 0 else [])

def test_matching():
    "Ids first, then paths, then file names that both sides have once"
    def corpus(*paths, **columns): return Corpus(pd.DataFrame(dict(path=paths, **columns)))
    def aligned(*ids):
        return Alignments(pd.DataFrame(dict(id=ids, start_s=0, end_s=np.arange(len(ids))+1, phone='A')))
    def match(a, c):
        found = a.for_corpus(c)
        return {id: found.segments(id).end_s.item() for id in found.ids}, found.missing
    assert match(aligned('a/1', 'b/2'), corpus('x/1.wav', 'x/2.v2.wav')) == ({'x/1.wav': 1}, ['x/2.v2.wav'])
    assert match(aligned('a/1', 'b/1', 'c/2'), corpus('a/1.wav', 'x/2.mp3')) == ({'x/2.mp3': 3}, ['a/1.wav']) # which 1?
    assert match(aligned('1', '2'), corpus('a/1.wav', 'b/1.wav', 'b/2.wav')) == ({'b/2.wav': 2}, ['a/1.wav', 'b/1.wav'])
    assert match(aligned('1', 'a/1.wav'), corpus('a/1.wav', 'b/1.wav')) == ({'a/1.wav': 2}, ['b/1.wav'])
    spans = corpus('f.wav', 'f.wav', start_s=[0.5, 2], duration_s=[1, 1])
    # an alignment of the span itself wins: it is not shifted, but cut at 1 s
    assert match(aligned('f.wav', 'f.wav#2.0'), spans) == ({'f.wav#0.5': 0.5, 'f.wav#2.0': 1}, [])
    assert match(aligned('f'), spans) == ({'f.wav#0.5': 0.5}, ['f.wav#2.0'])

def test_wrong_items(tmp_path):
    path = tmp_path/'a.item'
    path.write_text('#file onset offset #phone prev-phone next-phone\nx 0 1 A B C\n')
    with pytest.raises(QuantizerError, match="a.item: there is no column 'speaker'; its columns are: id, start_s"):
        read_items(path)
    path.write_text('#file onset offset #phone prev-phone next-phone speaker\nx 0 1 A B C s 9\n')
    with pytest.raises(QuantizerError, match="a.item: its rows have more values than columns"): read_items(path)
    path.write_text('#file onset offset #phone prev-phone next-phone speaker\nx 2 1 A B C s\n')
    with pytest.raises(QuantizerError, match=r"row 1 \(x\): it ends at 1 s, before its start"): read_items(path)
