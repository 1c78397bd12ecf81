"The page of evaluations, and the commands that write it"
import json, math, subprocess, sys

import numpy as np, pytest, soundfile as sf
from command import refused, run
from quantizer.app import evaluations
from quantizer.app.comparison import write_comparison
from quantizer.evaluate import suite
from quantizer.evaluate.evaluation import Evaluation, Result
from quantizer.evaluate.intervals import Estimate, ratio
from quantizer.evaluate.metrics import TEXT_METRICS

@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    "Six recordings of the sample"
    from quantizer.data.corpus import Corpus
    sample,folder = Corpus.load('sample'),tmp_path_factory.mktemp('corpus')/'six'
    folder.mkdir()
    for i in range(6): sf.write(folder/f'{i}.wav', sample.audio(i, 16000).numpy(), 16000)
    return folder

@pytest.fixture(scope='module')
def tokens(corpus):
    "Two files of invented tokens for them"
    from quantizer.data.corpus import Corpus
    ids = Corpus.load(corpus).ids
    rng = np.random.default_rng(0)
    for name,K in (('eight',8),('four',4)):
        lines = [json.dumps(dict(id=o, codes=rng.integers(K, size=40).tolist(), token_rate=50, codebook_size=K)) for o in ids]
        (corpus.parent/f'{name}.jsonl').write_text('\n'.join(lines))
    return [corpus.parent/'eight.jsonl', corpus.parent/'four.jsonl']

@pytest.fixture
def options(corpus):
    return ['--corpus', corpus, '--only', 'coding']

def test_compare(capsys, tmp_path, tokens, corpus, options):
    "Token files are measured, and saved evaluations are read, as a folder or a file"
    code,out,err = run(capsys, 'evaluate', tokens[0], corpus, '--only', 'coding', '--out', tmp_path/'saved')
    assert (code, err) == (0, '')
    page = (tmp_path/'saved/report.html').read_text()
    assert '>eight.jsonl<' in page and 'random codes' in page and '150 ' not in page.split('</header>')[0]
    code,out,err = run(capsys, 'compare', tmp_path/'saved', tmp_path/'saved/measures.json', tokens[1], *options, '--out', tmp_path/'out')
    assert (code, err) == (0, '') and '3 systems' in out
    page = (tmp_path/'out/comparison.html').read_text()
    for o in ('saved','saved-2','four','k-means, for four','random codes, for saved-2'): assert f'>{o}<' in page, o
    assert [o.name for o in sorted((tmp_path/'out').iterdir()) if not o.name.startswith('features-')] == ['comparison.html','four','results']
    for bitrate in (150, 100): assert f'data-sort="{bitrate}.0">{bitrate}<' in page # 50 Hz of 3 and of 2 bits

def test_opened_once(capsys, tmp_path, tokens, options, monkeypatch):
    "What is measured is read from disk once, although it is checked, measured and played"
    opened,load = [],evaluations.Tokens.load
    monkeypatch.setattr(evaluations.Tokens, 'load', lambda path, *args: (opened.append(path), load(path, *args))[1])
    assert run(capsys, 'compare', *tokens, *options, '--out', tmp_path/'out')[0] == 0
    assert opened == [str(o) for o in tokens]

def test_mistakes(capsys, tmp_path, tokens, options):
    "A typo and a damaged file are one line, found before anything is measured"
    out = tmp_path/'out'
    assert 'gone: no such file or folder' in refused(capsys, 'compare', tokens[0], tmp_path/'gone', *options, '--out', out)
    assert "did you mean 'coding'" in refused(capsys, 'compare', tokens[0], *options[:2], '--only', 'codng', '--out', out)
    for o in (['compare', tokens[0], tmp_path/'gone', *options], ['evaluate', tmp_path/'gone', *options[1:]]):
        assert 'gone: no such file or folder' in refused(capsys, *o, '--token-rate', 50, '--out', out)
    (tmp_path/'damaged').mkdir()
    (tmp_path/'damaged/config.json').write_text('{"model"')
    assert 'damaged tokenizer' in refused(capsys, 'compare', tokens[0], tmp_path/'damaged', *options, '--out', out)
    assert '--corpus' in refused(capsys, 'compare', tokens[0], '--out', out)
    (tmp_path/'measures.json').write_text('{"format": 1, "about"')
    for o in (tmp_path, tmp_path/'measures.json'):
        assert 'measures.json: not an evaluation' in refused(capsys, 'compare', tokens[0], o, *options, '--out', out)
    assert not out.exists()
    out.mkdir()
    (out/'config.yaml').write_text('')
    for o in (['evaluate', tokens[0], *options[1:]], ['compare', tokens[0], *options]):
        assert 'is a run' in refused(capsys, *o, '--out', out)

def test_interrupted(capsys, tmp_path, tokens, options, monkeypatch):
    "After Ctrl-C, what was finished is not measured again"
    measured,coding = [],suite.FAMILIES['coding']
    def _coding(system, material):
        measured.append(system.name)
        if len(measured) == 5: raise KeyboardInterrupt
        return coding(system, material)
    monkeypatch.setitem(suite.FAMILIES, 'coding', _coding)
    args = ['compare', *tokens, *options, '--out', tmp_path/'out']
    assert run(capsys, *args)[0] == 130 and not (tmp_path/'out/comparison.html').exists()
    assert measured == ['eight','k-means','random codes','features','four']
    assert run(capsys, *args)[0] == 0
    assert measured[5:] == ['four','k-means','random codes'] # the features are those of the first
    page = (tmp_path/'out/comparison.html').read_text()
    assert run(capsys, *args)[0] == 0 and len(measured) == 8
    assert (tmp_path/'out/comparison.html').read_text() == page

def invented(name, groups, problem='<i>bad</i>.wav: empty'):
    errors = ratio(np.arange(20)/20, np.ones(20), groups)
    about = dict(token_rate=50., codebook_sizes=[256], bitrate=400.)
    result = dict(phonetic=Result(dict(per=errors, nre=Estimate(math.nan), ued=Estimate(.5)), left_out=''))
    made = dict(corpus='</script><b>corpus', recordings=20, seconds=60., problems={'a':problem}, versions={})
    return Evaluation(made, {name:about, 'k-means':about}, {name:result, 'k-means':result})

def test_hostile_names(tmp_path):
    "Names from files cannot become markup"
    write_comparison(tmp_path/'a.html', [invented('</script><img src=x onerror=alert(1)>', range(20)), invented('"onclick="x', range(20))])
    page = (tmp_path/'a.html').read_text()
    assert page.count('<script') == page.count('</script>') == 3
    for o in ('<img','<i>bad','<b>corpus'): assert o not in page
    assert '"onclick' not in page.split('<script')[0]

def test_other_draws(tmp_path):
    "No difference between evaluations of other recordings, and the reason why"
    write_comparison(tmp_path/'a.html', dict(a=invented('a', range(20)), b=invented('b', range(20, 40))))
    page = (tmp_path/'a.html').read_text()
    assert 'No difference is shown where the draws of two estimates, of 20 and 20 groups, do not belong together' in page
    write_comparison(tmp_path/'a.html', dict(a=invented('a', range(20)), b=invented('b', range(20))))
    assert 'No difference' not in (tmp_path/'a.html').read_text()

READ = """
import sys
from quantizer.app.comparison import write_comparison
from quantizer.evaluate.evaluation import Evaluation
evaluation = Evaluation.load(sys.argv[1])
write_comparison(sys.argv[2], [evaluation])
assert not any('quantizer.whisper' in o for o in sys.modules)
print(evaluation.verdict()[0])
"""

def test_words_without_whisper(tmp_path):
    "A saved evaluation with words is read where nothing has imported Whisper's room"
    rng = np.random.default_rng(0)
    def words(wer): return dict(words=Result({k:ratio(rng.normal(wer, 0.05, 40), np.ones(40)) for k in TEXT_METRICS}))
    about = dict(corpus='made up', recordings=40, seconds=80., problems={}, versions={})
    system = dict(token_rate=50., codebook_sizes=[256], bitrate=400.)
    Evaluation(about, {'tokens':system, 'k-means':system}, {'tokens':words(0.3), 'k-means':words(0.5)}).save(tmp_path/'m.json')
    done = subprocess.run([sys.executable, '-c', READ, tmp_path/'m.json', tmp_path/'a.html'], capture_output=True, text=True)
    assert done.stdout.startswith('word error rate: better than k-means'), done.stderr
    page = (tmp_path/'a.html').read_text()
    for o in TEXT_METRICS.values(): assert o.label.strip() in page, o.label

def test_size(tmp_path):
    "A page of twelve systems is small, and its verdicts are folded"
    write_comparison(tmp_path/'a.html', [invented('a', range(20)) for _ in range(12)])
    assert (tmp_path/'a.html').stat().st_size < 5e6
    page = (tmp_path/'a.html').read_text()
    assert page.count('<details><summary><b>a') == 12 and '<details open><summary><b>' not in page
