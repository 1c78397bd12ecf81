"Tokens that others wrote: what is wrong in a file ends in one line that names it, and nothing else is refused"
import gzip, json, random, shutil, warnings

import numpy as np, pandas as pd, pytest, torch
from quantizer.all import Corpus, QuantizerError, Tokens
from quantizer.data.sources import read_json_lines
from quantizer.tokens.token_formats import TOKEN_FORMATS, write_discophon
from quantizer.tokens.token_set import match_ids

ROW = dict(id='a', codes=[3,1,1], token_rate=50, codebook_size=4)
DEEP = dict(ROW, id='b', codes=[[3,0],[1,2]])


def lines(*rows): return ''.join(o if isinstance(o, str) else json.dumps(o)+'\n' for o in rows)

def load(path, content, **given):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Tokens.load(path, **given)

@pytest.mark.parametrize('content, message', [
    ('', 'holds no recordings'),
    ('\n\n', 'holds no recordings'),
    (lines(ROW, '{"id": "b", '), 'cannot be read from about line 2 on'),
    (lines(ROW, '[1,2]\n'), 'cannot be read from about line 2 on (not an object)'),
    (b'\xff\xfe\x00', 'cannot be read from about line 1 on'),
    (lines({'codes': [1]}), "row 1 has no 'id'; it has: codes"),
    (lines(dict(ROW, id=7)), 'row 1: its id is 7: expected a text'),
    (lines(ROW, ROW), "row 2: repeats the id 'a'"),
    (lines(ROW, dict(ROW, id='b', codes=[1.0])), "row 2: got codes of 'b' of float64: expected whole numbers"),
    (lines(dict(ROW, codes=['1','2'])), "row 1: got codes of 'a' of <U1: expected whole numbers"),
    (lines(dict(ROW, codes='123')), "row 1: got codes of 'a' of <U3: expected whole numbers"),
    (lines(dict(ROW, codes=None)), "row 1: got codes of 'a' of object: expected whole numbers"),
    (lines(dict(ROW, codes=[1,None])), "row 1: got codes of 'a' of object: expected whole numbers"),
    (lines(dict(ROW, codes=3)), "row 1: got codes of 'a' of shape (): expected (T, Q)"),
    (lines(dict(ROW, codes=[[[1]]])), "row 1: got codes of 'a' of shape (1, 1, 1): expected (T, Q)"),
    (lines(dict(ROW, codes=[[],[]])), "row 1: got codes of 'a' of float64: expected whole numbers"),
    (lines(dict(ROW, codes=[[1,2],[3]])), "row 1: got codes of 'a' in rows of different lengths"),
    (lines(dict(ROW, codes=[True,False])), "row 1: got codes of 'a' of bool: expected whole numbers"),
    (lines(dict(ROW, codes=[10**30])), "row 1: got codes of 'a' of object: expected whole numbers"),
    (lines(dict(ROW, codes=[2**63])), "code 9223372036854775808 of 'a' in codebook 0: expected 0 to 3"),
    (lines(dict(ROW, codes=[1,-1])), "code -1 of 'a' in codebook 0: expected 0 to 3"),
    (lines(ROW, DEEP), "codes of 'b' have 2 codebooks, those of 'a' have 1"),
    (lines(dict(DEEP, codebook_size=[4,2])), "code 2 of 'b' in codebook 1: expected 0 to 1, since codebook_size is 2"),
    (lines(dict(DEEP, codebook_size=[4])), 'codebook_size lists 1 codebooks: the codes are of 2'),
    (lines(dict(ROW, codebook_size='4')), "codebook_size is '4': expected a whole number"),
    (lines(dict(ROW, codebook_size=[[4],[2,3]])), 'codebook_size is [4]: expected a whole number'),
    (lines(dict(ROW, codebook_size=10**30)), 'codebook_size is 1000000000000000000000000000000: expected a whole number from 1 to 2^62'),
    (lines(dict(ROW, token_rate='fast')), "token_rate is 'fast': expected tokens per second"),
    (lines(dict(ROW, token_rate=-1)), 'token_rate is -1: expected tokens per second'),
    (lines(dict(ROW, token_rate=1e400)), 'token_rate is inf: expected tokens per second'),
    (lines(ROW, dict(ROW, id='b', codebook_size=8)), 'row 2: codebook_size is 8, and 4 in a row before'),
    (lines(dict(ROW, codes=[])), 'none of 1 recordings holds a token'),
    (lines(dict(file='a', units=[1])), 'does not say its token_rate'),
    (lines(dict(file='a', units=[1]), dict(file='b', codes=[1])), "row 2 has no 'units'; it has: file, codes"),
])
def test_bad_lines(tmp_path, content, message):
    with pytest.raises(QuantizerError) as e: load(tmp_path/'t.jsonl', content)
    assert str(e.value).startswith(f'{tmp_path}/t.jsonl: {message}')

@pytest.mark.parametrize('content, message', [
    ('', 'holds no recordings'),
    ('a|1 2\nb\n', "line 2: no id and units: expected 'id|3 17 17'"),
    ('a|1 2\nb|1 x\n', "line 2: expected text such as 'id|3 17 17' (invalid literal for int() with base 10: 'x')"),
    ('a|1.5\n', "line 1: expected text such as 'id|3 17 17'"),
    (b'a|1\n\xff\xfe|1\n', "line 2: expected text such as 'id|3 17 17' ('utf-8' codec can't decode"),
    ('71 71 12\n', "line 1: its id would be the number 71: expected 'id|3 17 17'"),
    ('a|1\na|2\n', "row 2: repeats the id 'a'"),
    ('a|-1\n', "code -1 of 'a'"),
    ('a|'+'9'*30+'\n', "row 1: got codes of 'a' of object"),
])
def test_bad_text(tmp_path, content, message):
    with pytest.raises(QuantizerError) as e: load(tmp_path/'t.txt', content, token_rate=50, codebook_size=4)
    assert str(e.value).startswith(f'{tmp_path}/t.txt: {message}')

@pytest.mark.parametrize('column, values, message', [
    ('codes', [[1.5],[2.]], "row 1: got codes of 'a' of float64: expected whole numbers"),
    ('codes', [[1,None],[2,1]], "row 1: got codes of 'a' of float64: expected whole numbers"),
    ('codes', [[[1,2],[3]],[[1,2]]], "row 1: got codes of 'a' in rows of different lengths"),
    ('codes', [None,[1]], "row 1: got codes of 'a' of object: expected whole numbers"),
    ('codes', ['1 2','3'], "row 1: got codes of 'a' of <U3: expected whole numbers"),
    ('codes', [np.array([2**64-1], 'uint64'),np.array([1], 'uint64')], "code 18446744073709551615 of 'a' in codebook 0"),
    ('id', ['a','a'], "row 2: repeats the id 'a'"),
    ('id', [1,2], 'row 1: its id is 1: expected a text'),
    ('id', [None,'a'], 'row 1: its id is nan: expected a text'),
    ('codebook_size', [4,8], 'row 2: codebook_size is 8, and 4 in a row before'),
])
def test_bad_parquet(tmp_path, column, values, message):
    df = pd.DataFrame(dict(id=['a','b'], codes=[[1],[2,3]], token_rate=50, codebook_size=4)).assign(**{column: values})
    df.to_parquet(tmp_path/'t.parquet')
    with pytest.raises(QuantizerError) as e: Tokens.load(tmp_path/'t.parquet')
    assert str(e.value).startswith(f'{tmp_path}/t.parquet: {message}')

def test_no_such_column(tmp_path):
    pd.DataFrame(dict(id=['a'], units=[[1]])).to_parquet(tmp_path/'t.parquet')
    with pytest.raises(QuantizerError, match="t.parquet: row 1 has no 'codes'; it has: id, units"): Tokens.load(tmp_path/'t.parquet')

def test_no_file(tmp_path):
    with pytest.raises(QuantizerError, match='gone.jsonl: no such file'): Tokens.load(tmp_path/'gone.jsonl')
    with pytest.raises(QuantizerError, match='not an ordinary file'): Tokens.load(tmp_path)
    with pytest.raises(QuantizerError, match='tokens are written as .parquet or .jsonl'): Tokens(dict(a=[1]), 50, 4).save(tmp_path/'t.csv')

@pytest.mark.parametrize('column', [
    pd.Series([[1,2],[]]),
    pd.Series([np.array([1,2], 'uint8'), np.array([], 'uint8')]),
    pd.Series([[[1],[2]],[]]),
], ids=['lists','uint8','lists of lists'])
def test_parquet_of_others(tmp_path, column):
    "Columns in another order and of other types, other columns, and values that only some rows have"
    df = pd.DataFrame(dict(codebook_size=[None,[4]], speaker=['x',None], codes=column, token_rate=[np.nan,12.5], id=['a','b']))
    df.to_parquet(tmp_path/'T.PARQUET')
    tokens = Tokens.load(tmp_path/'T.PARQUET')
    assert {k: v.tolist() for k,v in tokens.codes.items()} == dict(a=[[1],[2]], b=[])
    assert (tokens.token_rate, tokens.codebook_sizes, tokens.name) == (12.5, [4], 'T.PARQUET')

def test_compressed_lines(tmp_path):
    tokens = load(tmp_path/'t.jsonl.gz', gzip.compress(lines(DEEP).encode()))
    assert tokens.codes['b'].tolist() == [[3,0],[1,2]]

def test_sizes_are_guessed_by_codebook(tmp_path):
    with pytest.warns(UserWarning, match=r't.jsonl: does not say its codebook_size: \[4, 3\] is taken'):
        tokens = load(tmp_path/'t.jsonl', lines(dict(id='b', codes=DEEP['codes']), dict(id='c', codes=[])), token_rate=50)
    assert tokens.codebook_sizes == [4,3]

@pytest.mark.parametrize('array', [torch.tensor([[3],[1]], dtype=torch.int16), np.array([[3],[1]], '>u2')[::1], np.array([3,1], 'uint8'), [3,1]],
    ids=['int16','big-endian','uint8','list'])
def test_any_array(array):
    codes = Tokens(dict(a=array), 50, 4).codes['a']
    assert codes.dtype == torch.int64 and codes.tolist() == [[3],[1]]

def test_joint_equals_unique_rows():
    "Numbers of the combinations, as NumPy counts unique rows"
    rng = np.random.default_rng(0)
    a,b = rng.integers(0, 9, (200,3)),rng.integers(0, 9, (50,3))
    joint = Tokens(dict(a=a, b=b), 50, 9).joint()
    expected = np.unique(np.concatenate([a,b]), axis=0, return_inverse=True)[1].reshape(-1)
    assert torch.cat([*joint.codes.values()]).flatten().tolist() == expected.tolist()
    assert joint.codebook_sizes == [expected.max()+1]
    one = Tokens(dict(a=[3,1]), 50, 9)
    assert one.joint() is one

def test_rate_without_durations(tmp_path):
    "A folder says no durations: its files are asked"
    sample = Corpus.sample()[:4]
    for i in range(4): shutil.copy(sample.file(i), tmp_path)
    corpus = Corpus.load(tmp_path)
    codes = {sample.id(i): [0]*int(75*sample[i].duration_s) for i in range(4)}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert [*match_ids(Tokens(codes, 75, 4), corpus).codes] == [*corpus.ids]
    with pytest.warns(UserWarning, match='token_rate is 50 Hz, and the recordings have 7[45].* 4 of 4 differ'): match_ids(Tokens(codes, 50, 4), corpus)

def test_spans():
    "A span is known by the path and its start"
    corpus = Corpus(pd.DataFrame(dict(path=['d/a.wav','d/a.wav'], start_s=[0.,1.5], duration_s=[1.,1.])), name='spans')
    matched = match_ids(Tokens({'/x/a#1.5': [0]*50, 'a': [1]*50}, 50, 4), corpus)
    assert {k: int(v[0]) for k,v in matched.codes.items()} == {'d/a.wav': 1, 'd/a.wav#1.5': 0}

def test_missing_tokens_are_counted():
    corpus = Corpus(pd.DataFrame(dict(path=['a.wav','b.wav','c.wav'], duration_s=1.)), name='three')
    with pytest.warns(UserWarning, match="three: 2 of 3 recordings have no tokens in tokens; the first is 'b.wav'"):
        assert [*match_ids(Tokens(dict(a=[0]*50), 50, 4), corpus).codes] == ['a.wav']

@pytest.mark.parametrize('rate, step', [(100,10), (50,20), (25,40), (100/3,30), (12.5,80)])
def test_rates_of_discophon(tmp_path, rate, step):
    write_discophon(tmp_path/'u.jsonl', Tokens({'d/a.wav': [0,3]}, rate, 4))
    assert [*read_json_lines(tmp_path/'u.jsonl')] == [dict(file='a', units=[0,3])]
    assert TOKEN_FORMATS['discophon'].matches(str(tmp_path/'u.jsonl'))

@pytest.mark.parametrize('rate', [75, 21.5, 200, 1000])
def test_rates_that_discophon_lacks(tmp_path, rate):
    with pytest.raises(QuantizerError, match='DiscoPhon takes multiples of 10 ms'): write_discophon(tmp_path/'u.jsonl', Tokens(dict(a=[0]), rate, 4))

def test_stems_of_discophon(tmp_path):
    with pytest.raises(QuantizerError, match='2 ids have only 1 stems'): write_discophon(tmp_path/'u.jsonl', Tokens({'x/a.wav': [0], 'y/a.wav': [0]}, 50, 4))

@pytest.mark.parametrize('suffix', ['jsonl','parquet','safetensors','txt'])
def test_damaged_files(tmp_path, suffix):
    "Any bytes give tokens or one line"
    from types import SimpleNamespace
    from quantizer.tokens.files import save_tokens
    tokens,path,rng = Tokens(dict(a=[[3,0],[1,2]], b=[[0,0]]), 50, [4,3]),tmp_path/f't.{suffix}',random.Random(0)
    if suffix == 'safetensors': save_tokens(path, tokens.codes, SimpleNamespace(fingerprint='0', token_rate=50., codebook_size=4))
    elif suffix == 'txt': path.write_text('a|1 2 3\nb|3 2 1\n')
    else: tokens.save(path)
    whole,refused = path.read_bytes(),0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1,1,4])): data[rng.randrange(len(data))] = rng.choice([0,32,44,91,123,255,rng.randrange(256)])
        if rng.random() < 0.2: data = data[:rng.randrange(len(data))]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            path.write_bytes(data)
            try: Tokens.load(path, token_rate=50)
            except QuantizerError as e:
                refused += 1
                assert f't.{suffix}: ' in str(e) and '\n' not in str(e)
    assert refused
