"A run that is adapted to other recordings: it begins where the first one ended, and both are measured on the new recordings"
import shutil

import pandas as pd, pytest, torch, yaml
from quantizer.all import Corpus, QUANTIZERS, Quantizer, QuantizerError, Tokenizer, load_config, load_model, train_run
from quantizer.app.adapt import adapt, adapt_changes, adapted_families
from quantizer.app.build import freeze_quantizer
from quantizer.quantizers.vq import VQ
from quantizer.train.logging import TIMINGS
from command import refused, run

SMALL = ['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=16', 'data.batch_size=8', 'data.crop_s=1', 'train.lr=0.01']

@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
    "Manifests of one language each"
    folder,c = tmp_path_factory.mktemp('data'),Corpus.sample()
    for o in ('en','es'):
        part = c.select((c.df.language == o).to_numpy())
        part.df.assign(path=[str(part.file(i)) for i in range(len(part))]).to_csv(folder/f'{o}.tsv', sep='\t', index=False)
    return folder

def first_run(corpora, out, *changes):
    train_run('mfcc-vq', out, [*SMALL, f'data.corpus={corpora}/en.tsv', 'train.epochs=12', *changes], progress=False)
    return out

@pytest.fixture(scope='module')
def english(corpora, tmp_path_factory): return first_run(corpora, tmp_path_factory.mktemp('runs')/'english')

@pytest.fixture
def spanish(corpora): return [f'data.corpus={corpora}/es.tsv', 'train.epochs=4']

def config(out): return yaml.safe_load((out/'config.yaml').read_text())
def state(out): return load_model(out).quantizer.state_dict()
def log(out): return pd.read_csv(out/'log.csv').drop(columns=[*TIMINGS], errors='ignore')
def same(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())

def test_command(capsys, english, spanish, tmp_path):
    "Before, after and k-means in one table; a page; the error on the new language falls"
    out = tmp_path/'new'
    code,said,err = run(capsys, 'adapt', english, *spanish, '--only', 'coding,signal', '--out', out)
    assert (code, err) == (0, '')
    lines = said.splitlines()
    head = next(i for i,o in enumerate(lines) if o.split() == ['before','after','change','k-means'])
    assert any(o.startswith('reconstruction error') for o in lines[head:])
    assert any(o.startswith('reconstruction error: better than before: -') and 'paired)' in o for o in lines)
    assert any('k-means of the same size and rate' in o for o in lines)
    page = (out/'comparison/comparison.html').read_text()
    assert all(o in page for o in ('before','after','k-means'))
    assert run(capsys, 'compare', out/'comparison/before.json', out/'comparison/after.json', '--out', tmp_path/'again')[0] == 0

def test_config(english, spanish, tmp_path, corpora):
    "Complete, and that of the first run but for what is named here"
    res = adapt(english, tmp_path/'new', spanish, only='signal', progress=False)
    old,new = config(english),config(tmp_path/'new')
    assert (new['train']['init_from'], new['data']['corpus'], new['train']['lr']) == (str(english), f'{corpora}/es.tsv', old['train']['lr']/2)
    for o in ('init_from','epochs','lr'): new['train'][o] = old['train'][o]
    assert new | dict(data=old['data']) == old and new['data'] | dict(corpus=old['data']['corpus']) == old['data']
    one,two = load_model(english),load_model(tmp_path/'new')
    assert torch.equal(one.mean, two.mean) and torch.equal(one.std, two.std) and not same(state(english), state(tmp_path/'new'))
    table = res.table()
    assert list(table.columns) == ['before','after','change','k-means'] and res.changes()['nre'].high < 0
    assert res.before.measures('k-means')['nre'].value == table['k-means']['nre'].value

def test_resume(capsys, english, spanish, tmp_path):
    "Stopped after an epoch and continued by either command, the run is the same"
    def _new(name, *more): return ['adapt', english, *spanish, '--only', 'signal', '--out', tmp_path/name, *more]
    assert run(capsys, *_new('whole'))[0] == 0
    assert run(capsys, *_new('again', '--resume'))[0] == 0 # there is none yet
    for name,command in dict(one=_new('one', '--resume'), two=['train', '--resume', '--out', tmp_path/'two']).items():
        shutil.copytree(tmp_path/'whole', tmp_path/name)
        last = sorted((tmp_path/name/'checkpoints').glob('step-*'))
        for o in last[1:]: shutil.rmtree(o)
        for o in ('report.html','measures.json'): (tmp_path/name/o).unlink()
        for o in ('comparison','tokenizer'): shutil.rmtree(tmp_path/name/o)
        assert run(capsys, *command)[0] == 0
        assert log(tmp_path/name).equals(log(tmp_path/'whole'))
    assert Tokenizer.load(tmp_path/'one').fingerprint == Tokenizer.load(tmp_path/'two').fingerprint == Tokenizer.load(tmp_path/'whole').fingerprint
    assert "'train.lr' is 0.5" in refused(capsys, *_new('whole', '--resume', 'train.lr=0.5'))

KINDS = {'ema':[], 'gradient':['model.quantizer.codebook=gradient'], 'projected':['model.quantizer.codebook_dim=4', 'model.quantizer.metric=cosine'],
    'residual':['model.quantizer={name: residual, num_quantizers: 2, codebook_size: 8}'], 'fsq':['model.quantizer.name=fsq', 'model.quantizer.codebook_size=15'],
    'simvq':['model.quantizer.name=simvq'], 'gumbel':['model.quantizer.name=gumbel', 'model.losses.diversity=0.1']}

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.filterwarnings('ignore:model.quantizer')
def test_frozen(kind, corpora, english, spanish, tmp_path, capsys):
    "No bit of the quantizer changes, whatever it has to learn; a resumed run keeps it too"
    first = first_run(corpora, tmp_path/'first', *KINDS[kind], 'train.epochs=2') if KINDS[kind] else english
    out = tmp_path/'new'
    train_run(first/'config.yaml', out, adapt_changes(first, spanish, 'frozen'), progress=False)
    def _weights(o): return {k:v for k,v in state(o).items() if k.split('.')[-1] != 'draws'}
    assert same(_weights(first), _weights(out)) and config(out)['train']['freeze_codebook']
    assert not torch.equal(load_model(first).decoder.state_dict().popitem()[1], load_model(out).decoder.state_dict().popitem()[1])
    for o in sorted((out/'checkpoints').glob('step-*'))[1:]: shutil.rmtree(o)
    for o in ('report.html','measures.json'): (out/o).unlink()
    train_run(None, out, progress=False, resume=True)
    assert same(_weights(first), _weights(out))

def test_cannot_be_frozen():
    "A quantizer that learns by means of its own is refused"
    @QUANTIZERS.register('test_moving')
    class Moving(VQ):
        def quantize(self, x, batch_index):
            if self.training: self.book.vectors += 1
            return VQ.quantize(self, x, batch_index)
    try:
        model = torch.nn.Module()
        model.quantizer = Moving(8, 4).load_codebook(torch.randn(4, 8))
        model.quantizer.train()(torch.randn(1, 20, 8))
        with pytest.raises(QuantizerError, match="quantizer 'test_moving' cannot be frozen: a training step changes its 'codebook'"):
            freeze_quantizer(model)
    finally: del QUANTIZERS['test_moving']

def test_grown(english, spanish, tmp_path):
    "Larger when it is asked for; each tokenizer stands beside k-means of its own size"
    res = adapt(english, tmp_path/'grown', [*spanish, 'model.quantizer.codebook_size=24'], only='coding', progress=False)
    assert Tokenizer.load(tmp_path/'grown').codebook_size == 24
    assert [o.systems['k-means']['codebook_sizes'] for o in (res.before, res.after)] == [[16],[24]]

@pytest.mark.parametrize('block', [[], ['model.quantizer={name: residual, num_quantizers: 2, quantizer: {name: vq, codebook_size: 8}}'],
    ['model.quantizer={name: residual, codebook_size: [8,16]}']])
def test_after_phases(block, corpora, spanish, tmp_path):
    "Phases are left out; their last weights and the size of the codebook stay"
    first = first_run(corpora, tmp_path/'first', *block, 'train.phases=[{epochs: 1}, {epochs: 2, losses: {commitment: 0.5}, codebook_size: 20}]')
    train_run(first/'config.yaml', tmp_path/'new', adapt_changes(first, spanish), progress=False)
    assert load_model(tmp_path/'new').quantizer.codebook_sizes == load_model(first).quantizer.codebook_sizes == [20]*(2 if block else 1)
    assert [{k:o[k] for k in ('epochs','losses','codebook_size')} for o in config(tmp_path/'new')['train']['phases']] == [dict(epochs=4, losses=dict(commitment=0.5), codebook_size=None)]

@pytest.mark.filterwarnings('ignore:model.quantizer')
def test_after_annealing(corpora, spanish, tmp_path):
    "What was annealed stays at its end"
    first = first_run(corpora, tmp_path/'first', 'model.quantizer.name=gumbel', 'train.anneal.temperature={start: 2, end: 0.5}', 'train.epochs=1')
    new = load_config(first/'config.yaml', adapt_changes(first, spanish))
    assert {k:new['train']['anneal']['temperature'][k] for k in ('start','end','shape')} == dict(start=0.5, end=0.5, shape='linear')

def test_store(english, corpora, spanish, tmp_path):
    "The store of the first run is not taken over; one that is named is"
    first = first_run(corpora, tmp_path/'first', f'data.store={tmp_path}/store', 'train.epochs=1')
    assert load_config(first/'config.yaml', adapt_changes(first, spanish))['data']['store'] is None
    assert load_config(first/'config.yaml', adapt_changes(first, [*spanish, f'data.store={tmp_path}/two']))['data']['store'] == f'{tmp_path}/two'

@pytest.mark.filterwarnings('ignore:model.quantizer')
@pytest.mark.parametrize('changes,told', [
    ([], "'data.corpus' is missing"), (['data.corpus={corpora}/en.tsv'], 'name other recordings'), (['{new}', 'features.n_mfcc=20'], "'features.n_mfcc' is 20"),
    (['{new}', 'features.name=logmel'], "'features.name' is 'logmel'"), (['{new}', 'model.encoder.width=32'], "'model.encoder.width' is 32"),
    (['{new}', 'model.encoder.downsample=4'], "'model.encoder.downsample' is 4"), (['{new}', 'model.quantizer.codebook_size=8'], 'can grow, not shrink'),
    (['{new}', 'model.quantizer.codebook_size=32', '--codebook', 'frozen'], 'a frozen codebook keeps its size'), (['{new}', 'model.quantizer.name=fsq', 'model.quantizer.codebook_size=18'], 'its model is of another kind'),
    (['{new}', '--only', 'signl'], "did you mean 'signal'"), (['{new}', '--codebook', 'thawed'], "invalid choice: 'thawed'"), (['data.corpus=gone'], 'no such folder or manifest'),
    (['{new}', '--codebook', 'frozen', 'train.phases=[{epochs: 1}, {epochs: 1, codebook_size: 32}]'], 'can grow')])
def test_refused(capsys, english, corpora, tmp_path, changes, told):
    "One line, before any work"
    changes = [o.replace('{new}', f'data.corpus={corpora}/es.tsv').replace('{corpora}', str(corpora)) for o in changes]
    assert told in refused(capsys, 'adapt', english, *changes, '--out', tmp_path/'new')
    assert not (tmp_path/'new').exists()

def test_no_run(capsys, english, spanish, tmp_path):
    def _told(first): return refused(capsys, 'adapt', first, *spanish, '--out', tmp_path/'new')
    assert 'is not the folder of a run' in _told(tmp_path/'gone')
    assert 'is a tokenizer, which does not say how it was trained' in _told(english/'tokenizer')
    shutil.copytree(english, tmp_path/'unfinished', ignore=shutil.ignore_patterns('tokenizer'))
    assert 'has no tokenizer yet' in _told(tmp_path/'unfinished')
    assert 'holds a run already' in refused(capsys, 'adapt', english, *spanish, '--out', english)

def test_phone_times(english, corpora, tmp_path, capsys):
    "Those of the first language, in the folder of both: a line says so, and the rest is measured"
    c = Corpus.sample()
    shutil.copy(f'{c.root}/alignments.tsv', tmp_path)
    shutil.copy(corpora/'es.tsv', tmp_path)
    res = adapt(english, tmp_path/'new', [f'data.corpus={tmp_path}/es.tsv', 'train.epochs=1'], only='phonetic,signal', progress=False)
    assert 'phones are not measured: ' in capsys.readouterr().err and 'nre' in res.changes()
    assert any('phonetic of after' in o for o in res.reasons().values())

def test_families():
    assert adapted_families('coding,signal') == ['coding','signal'] and not {'robustness','words'} & set(adapted_families())
