"Validation parts from other corpora, in whole runs: their numbers, what watches them, and mistakes"
import json, shutil
import numpy as np, pandas as pd, pytest, yaml
from quantizer.app.cli import main
from quantizer.core.errors import QuantizerError
from quantizer.app.sweep import shared_store
from quantizer.all import Corpus, Tokenizer, load_config, train_run

SMALL = ['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.dim=8', 'model.quantizer.codebook_size=64', 'data.crop_s=0.5', 'data.batch_size=8', 'train.epochs=3', 'train.lr=4e-3']

def write(folder, name, corpus, split):
    "A manifest of recordings, which names their files"
    path = folder/f'{name}.tsv'
    corpus.df.assign(path=[str(corpus.file(i)) for i in range(len(corpus))], split=split).to_csv(path, sep='\t', index=False)
    return path

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "English and French, of which a fifth is held out; Spanish and Russian without a split; English with either of them as its validation part"
    d,sample = tmp_path_factory.mktemp('data'),Corpus.sample()
    def language(o, step): return sample.select(np.flatnonzero(sample.df.language == o)[::step])
    own = sample.select([*np.flatnonzero(sample.df.language == 'en')[::2], *np.flatnonzero(sample.df.language == 'fr')[::3]])
    split = np.where(np.arange(len(own)) % 5 == 0, 'valid', 'train')
    write(d, 'own', own, split)
    for name,o in dict(spanish=language('es', 2), russian=language('ru', 3)).items():
        write(d, name, o, '')
        both = Corpus(pd.concat([own.df[split == 'train'], o.df], ignore_index=True), sample.root)
        write(d, f'only_{name}', both, ['train']*(split == 'train').sum()+['valid']*len(o))
    return d

def parts(data): return f'data.valid={{spanish: {data}/spanish.tsv, russian: {data}/russian.tsv}}'
def run(out, data, *changes, corpus='own'):
    train_run('mfcc-vq', out, [*SMALL, f'data.corpus={data}/{corpus}.tsv', *changes], progress=False)
    return pd.read_csv(out/'log.csv')

@pytest.fixture(scope='module')
def watched(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('watched')/'run'
    run(out, data, parts(data), 'train.checkpoint.monitor=mean/mse')
    return out

def test_equal_to_single_parts(watched, data, tmp_path):
    "Each part has the numbers of a run that is validated on it alone, and `valid` those of a run without parts, to the last digit"
    log = pd.read_csv(watched/'log.csv')
    for name in ('spanish','russian'):
        alone = run(tmp_path/name, data, corpus=f'only_{name}')
        for k in ('loss','mse','commitment'): assert (log[f'{name}/{k}'] == alone[f'valid_{k}']).all(), (name, k)
        for k in ('nre','usage','perplexity'): assert (log[f'{name}/{k}'] == alone[k]).all(), (name, k)
    plain = run(tmp_path/'plain', data)
    same = [o for o in plain if o not in ('time_s','data_wait')]
    assert log[same].equals(plain[same]) and not [o for o in plain if '/' in o]
    np.testing.assert_allclose(log['mean/nre'], (log.nre+log['spanish/nre']+log['russian/nre'])/3, rtol=1e-12)

def test_best_by_mean(watched):
    "The best checkpoint is that of the least mean; the tokenizer and the report are of the own validation part"
    log,state = pd.read_csv(watched/'log.csv'),json.loads((watched/'checkpoints/best/state.json').read_text())
    assert (state['monitor'], state['epoch'], state['value']) == ('mean/mse', log['mean/mse'].idxmin(), log['mean/mse'].min())
    measures = json.loads((watched/'measures.json').read_text())['this run']
    own = Corpus.load(yaml.safe_load((watched/'config.yaml').read_text())['data']['corpus']).part('valid')
    assert measures['recordings'] == len(own) and Tokenizer.load(watched).codebook_size == 64

def test_console(data, tmp_path, capsys):
    "The line of an epoch has the loss of each part"
    log = run(tmp_path/'run', data, parts(data), 'train.epochs=1')
    line = next(o for o in capsys.readouterr().out.split('\n') if o.startswith('epoch   0'))
    assert f"   valid {log.valid_loss[0]:.4f}   spanish {log['spanish/loss'][0]:.4f}   russian {log['russian/loss'][0]:.4f}   error " in line

def test_resume_needs_the_same(watched, data, tmp_path):
    "Another path of a part, a part less, and a part whose recordings changed are noticed"
    copied = tmp_path/'run'
    shutil.copytree(watched, copied)
    def said(*changes):
        with pytest.raises(QuantizerError) as e: train_run(None, copied, ['train.epochs=3', *changes], progress=False, resume=True)
        return str(e.value)
    assert said(f'data.valid.spanish={data}/own.tsv').startswith("'data.valid.spanish' is ")
    assert said('data.valid=0.2', 'train.checkpoint.monitor=nre').startswith("'data.valid")
    manifest = data/'russian.tsv'
    text = manifest.read_text()
    manifest.write_text('\n'.join(text.split('\n')[:-3])+'\n')
    try: assert 'was started with ' in said()
    finally: manifest.write_text(text)

def test_mistakes(data, tmp_path, capsys):
    "One line, which names the part"
    def said(*changes):
        assert main(['train', 'mfcc-vq', *SMALL, f'data.corpus={data}/own.tsv', *changes, '--out', str(tmp_path/'run')]) == 1
        err = capsys.readouterr().err
        assert err.count('\n') == 1 and not (tmp_path/'run').exists()
        return err
    assert "'data.valid' has a part 'mse', and there is a loss of this name" in said(f'data.valid={{mse: {data}/russian.tsv}}')
    assert "'data.valid' has a part 'a/b': expected a letter" in said(f'data.valid={{a/b: {data}/russian.tsv}}')
    assert f"'data.valid.other': {data}/gone.tsv: no such folder or manifest" in said(f'data.valid={{other: {data}/gone.tsv}}')
    assert "is also in the 'train' part of" in said(f'data.valid={{other: {data}/only_spanish.tsv}}', f'data.corpus={data}/spanish.tsv')
    assert "'train.checkpoint.monitor' is 'spanis/loss' (did you mean 'spanish/loss'?)" in said(parts(data), 'train.checkpoint.monitor=spanis/loss')

def test_nothing_usable(data, tmp_path):
    "A part of damaged recordings only"
    (tmp_path/'broken').mkdir()
    (tmp_path/'broken/a.wav').write_bytes(b'RIFF')
    with pytest.raises(QuantizerError, match="no recording that could be used is in the 'other' part; 1 were skipped, the first: .*broken/a.wav"):
        run(tmp_path/'run', data, f'data.valid={{other: {tmp_path}/broken}}')

def test_shared_store(data, tmp_path):
    "Runs of a sweep share features only if their parts are the same; `quantizer features` extracts those of parts too"
    config = [*SMALL, f'data.corpus={data}/own.tsv']
    plain,with_two = (shared_store(load_config('mfcc-vq', [*config, *o]), tmp_path) for o in ([], [parts(data)]))
    assert plain != with_two
    store = str(tmp_path/'store')
    assert main(['features', 'mfcc-vq', *config, parts(data), '--out', store]) == 0
    log = run(tmp_path/'run', data, parts(data), f'data.store={store}', 'train.epochs=1')
    assert log['spanish/loss'].notna().all() and not (tmp_path/'run/features').exists()

@pytest.mark.parametrize('more', (['data.live=true'], ['data.views=1', 'data.augment={gain: [-6, 6]}', 'data.batching=buckets'], ['train.precision=bf16', 'data.batching=packed']))
def test_other_sources(data, tmp_path, more):
    "Live features, views, and other batches and precisions"
    log = run(tmp_path/'run', data, parts(data), *more, 'train.epochs=1')
    assert np.isfinite(log[['spanish/mse','russian/nre','mean/usage']]).all(None)
