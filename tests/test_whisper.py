"The command, from a training through Whisper to word error rates; mistakes in it; and the recordings of QUANTIZER_DATA"
import json, os, signal
from pathlib import Path

import pandas as pd, pytest, torch, yaml
from quantizer.all import *
from quantizer.whisper.objective import TextObjective
from quantizer.whisper.teacher import random_whisper
from quantizer.train.logging import TIMINGS
from quantizer.app.cli import info, main

SMALL = ['data.batch_size=4', 'model.decoder.layers=1', 'model.quantizer.codebook_size=32', 'train.phases=[{epochs: 1}, {epochs: 1, losses: {kl: 0.5, ce: 0.1}}]', 'train.epoch_steps=4', 'train.wer=2', 'train.precision=fp32', 'model.teacher={topk: 8}']

@pytest.fixture(scope='module')
def few(tmp_path_factory):
    "Sixteen words of two languages, and a small Whisper"
    d = tmp_path_factory.mktemp('few')
    c = Corpus.sample()
    rows = [i for l in ('en','es','fr') for i in c.df.index[(c.df.language == l) & (c.df.duration_s < 1.5)][:8]]
    c.select(rows).df.assign(path=[str(c.file(i)) for i in rows]).to_csv(d/'few.tsv', sep='\t', index=False)
    random_whisper(d/'whisper', layers=1)
    return d

def train(few, out, *more): return main(['train', 'whisper-vq-512', *SMALL, f'data.corpus={few/"few.tsv"}', f'features.model={few/"whisper"}', *more, '--out', str(out)])

@pytest.fixture(scope='module')
def trained(few):
    assert train(few, few/'run') == 0
    return few/'run'

def test_train(trained, capsys):
    log,m = pd.read_csv(trained/'log.csv'),json.loads((trained/'measures.json').read_text())
    assert {'valid_kl','valid_ce','valid_accuracy','wer'} <= {*log} and log.wer.notna().tolist() == [False,True]
    assert list(m) == ['this run','k-means','Whisper'] and all(o['wer'] is not None for o in m.values())
    page = (trained/'report.html').read_text()
    assert 'What Whisper reads' in page and 'word error rate' in page
    cfg = yaml.safe_load((trained/'config.yaml').read_text())
    assert cfg['train']['epochs'] == 2 and cfg['model']['quantizer']['dim'] == 32 and 'teacher' not in json.loads((trained/'tokenizer/config.json').read_text())['model']
    assert info(trained/'targets')['kind'] == 'text targets'
    problems = FeatureStore(trained/'targets').problems
    assert len(problems) == 8 and all("knows 2 languages" in o and 'fr' in o for o in problems.values())

def test_evaluate(few, trained, capsys):
    "Words of all systems that Whisper can read, with intervals; why the others have none"
    assert main(['evaluate', str(trained), str(few/'few.tsv'), '--only', 'words', '--out', str(few/'m.json')]) == 0
    said = capsys.readouterr().out
    assert 'word error rate' in said and 'words of random codes' in said
    results = json.loads((few/'m.json').read_text())['results']
    own,kmeans,random,features = (o['words'] for o in results.values())
    assert own['details']['languages'][0]['recordings'] == 8 and len(own['details']['texts']) == 16 and len(own['details']['text_problems']) == 8
    assert own['measures']['wer']['low'] <= own['measures']['wer']['value'] <= own['measures']['wer']['high']
    assert [o['whisper'] for o in own['details']['texts']] == [o['whisper'] for o in features['details']['texts']]
    assert {*own['measures']} == {*kmeans['measures']} == {*features['measures'], 'kl', 'to_whisper'} and random['left_out'] and not random['measures']

def test_resumes_the_same(few, trained, tmp_path):
    "Again, from targets that are there, and the same to the last digit; texts by Whisper itself make other targets"
    assert train(few, tmp_path/'again', f'model.teacher.store={trained/"targets"}', f'data.store={trained/"features"}') == 0
    drop = dict(columns=[*TIMINGS], errors='ignore')
    pd.testing.assert_frame_equal(*(pd.read_csv(o/'log.csv').drop(**drop) for o in (trained, tmp_path/'again')), check_exact=True)
    assert train(few, tmp_path/'own', f'data.store={trained/"features"}', 'model.teacher={topk: 0, text: whisper}', 'train.epoch_steps=1') == 0
    assert FeatureStore(tmp_path/'own/targets').dim == 1

def test_live(few, tmp_path):
    "Features computed and augmented while training, and the teacher asked"
    assert train(few, tmp_path/'live', 'data.live=true', 'data.views=0', 'data.augment={gain: [-6, 6]}', 'model.losses={mse: 1.0, kl: 0.0, ce: 0.0}', 'model.teacher={topk: 0}', 'train.epoch_steps=2') == 0

def test_mistakes(few, trained, tmp_path, capsys):
    def why(*changes, config='whisper-vq-512'):
        assert main(['train', config, f'data.corpus={few/"few.tsv"}', *([f'features.model={few/"whisper"}'] if config.startswith('whisper') else []), *changes, '--out', str(tmp_path/'no')]) == 1
        assert not (tmp_path/'no').exists()
        err = capsys.readouterr().err.strip()
        assert '\n' not in err, err
        return err
    assert "needs features of name whisper, not mfcc" in why('model.losses={mse: 1, kl: 1}', 'data.batching=buckets', config='mfcc-vq')
    assert "'data.batching' is 'crops'" in why('data.batching=crops')
    assert "'train.wer' is 5" in why('train.wer=5', config='mfcc-vq')
    assert "no such loss" in why('train.phases=[{epochs: 1, losses: {kk: 1}}]')
    assert "unknown key 'model.teacher.topc' (did you mean 'topk'?)" in why('model.teacher={topc: 3}')
    assert "no such folder with a model" in why('features.model=/nowhere')
    assert "'train.checkpoint.monitor' is 'valid_lk'" in why('train.checkpoint.monitor=valid_lk')
    c = Corpus.sample()
    c.df.iloc[::8].assign(path=[c.file(i) for i in range(0, len(c), 8)]).to_csv(tmp_path/'some.tsv', sep='\t', index=False)
    assert main(['evaluate', str(trained), str(tmp_path/'some.tsv'), '--only', 'words']) == 0 # most of it is in other languages, which is said
    said = capsys.readouterr().out
    assert 'not measured: words of ' in said and 'knows 2 languages' in said
    assert main(['train', 'mfcc-vq', 'data.crop_s=0.5', 'model.encoder.width=8', 'model.decoder.width=8', 'train.epochs=1', '--out', str(tmp_path/'mfcc')]) == 0
    capsys.readouterr()
    assert main(['evaluate', str(tmp_path/'mfcc'), 'sample', '--only', 'words']) == 0
    assert "only tokens of 'whisper' features" in capsys.readouterr().out

OTHERS = {'whisper-ichigo':['model.quantizer.codebook_size=32', 'train.phases=[{epochs: 1}, {epochs: 1, codebook_size: 64, losses: {kl: 1.0}}, {epochs: 1, losses: {kl: 0.0, ce: 0.1}}]', 'train.wer=0'], 'whisper-fsq':['train.phases=[{epochs: 1, losses: {kl: 1.0}}]', 'train.wer=0'],
    'repcodec':['model.encoder.width=16', 'model.decoder.width=16', 'model.quantizer.codebook_size=32', 'train.epochs=1']}
@pytest.mark.parametrize('config', OTHERS)
def test_configs(few, tmp_path, config):
    assert main(['train', config, f'data.corpus={few/"few.tsv"}', f'features.model={few/"whisper"}', 'data.batch_size=4', 'train.epoch_steps=2', *OTHERS[config], '--out', str(tmp_path/'run')]) == 0
    m = json.loads((tmp_path/'run/measures.json').read_text())['this run']
    assert Tokenizer.load(tmp_path/'run').codebook_size == m['codebook_size'] == {'whisper-ichigo':64, 'whisper-fsq':729, 'repcodec':32}[config]

def test_long_ones(few, tmp_path, capsys):
    "Recordings over longest_s are told and left out; if all are, that is the reason given"
    with pytest.warns(match='are longer than longest_s, 0.9: they are left out'): assert train(few, tmp_path/'some', 'data.longest_s=0.9', 'data.crop_s=0.5', 'train.wer=0', 'train.epoch_steps=1') == 0
    capsys.readouterr()
    assert train(few, tmp_path/'no', 'data.longest_s=0.1', 'data.crop_s=0.1') == 1
    assert "recordings of the 'train' part are longer: texts and targets go with whole recordings" in capsys.readouterr().err

def test_middle_layer(few, tmp_path):
    "A quantizer below the last layer: frozen layers above it pass the gradient on"
    assert train(few, tmp_path/'run', 'features.layer=0', 'train.checkpoint.monitor=valid_accuracy') == 0
    log = pd.read_csv(tmp_path/'run/log.csv')
    best = json.loads((tmp_path/'run/checkpoints/best/state.json').read_text())
    assert best['epoch'] == log.valid_accuracy.argmax()

def test_no_text(few, tmp_path, capsys):
    c = Corpus.load(few/'few.tsv')
    c.df.assign(text='').to_csv(tmp_path/'mute.tsv', sep='\t', index=False)
    assert train(few, tmp_path/'no', f'data.corpus={tmp_path/"mute.tsv"}') == 1
    assert 'has no text in the manifest; give one, or set model.teacher.text=whisper' in capsys.readouterr().err

def test_interrupted(few, tmp_path, capsys, monkeypatch):
    "Ctrl-C in the middle saves, and the run goes on"
    def after_batch(self):
        if self.train_iter == 6: os.kill(os.getpid(), signal.SIGINT)
        save_or_stop(self)
    save_or_stop = Checkpoint.after_batch
    monkeypatch.setattr(Checkpoint, 'after_batch', after_batch)
    assert train(few, tmp_path/'run', 'train.wer=0') == 130 and 'stopped and saved' in capsys.readouterr().err
    monkeypatch.undo()
    assert main(['train', '--resume', '--out', str(tmp_path/'run'), 'train.phases=[{epochs: 1}, {epochs: 1, losses: {kl: 0.5, ce: 0.1}}]']) == 0
    assert pd.read_csv(tmp_path/'run/log.csv').step.tolist() == [4,8]

@pytest.mark.skipif('QUANTIZER_DATA' not in os.environ, reason='set QUANTIZER_DATA to a folder with models/whisper-tiny.en and data/dev')
def test_real(tmp_path):
    "With Whisper tiny.en: near its own states before anything is quantized, and no gradient for it; padding changes nothing"
    data = Path(os.environ['QUANTIZER_DATA'])
    folder,c = str(data/'models'/'whisper-tiny.en'),Corpus.load(data/'data'/'dev'/'manifest.tsv', dict(label='text'))
    c = c.select([i for i in range(len(c)) if c.df.path[i].startswith('librispeech') and c.df.duration_s[i] < 6][:4])
    enc,teacher = WhisperEncoder(folder, pad=True),WhisperTeacher(folder)
    wavs = [c.audio(i) for i in range(4)]
    feats,mask = enc(*(lambda x,m: (x, m.sum(1)))(*pad_batch(wavs)))
    block = check_model(dict(encoder=dict(name='bottleneck'), quantizer=dict(name='vq', dim=384, codebook_size=64), decoder=dict(name='bottleneck'), losses=dict(mse=1., kl=1., ce=1.), teacher=dict(topk=0)))
    set_seed(0)
    model = build_model(block, feats[mask].mean(0), feats[mask].std(0)).train()
    model.objectives.append(TextObjective(dict(kl=1., ce=1.), model, teacher, teacher.silence_states(enc, wavs)))
    tokens = pad_batch([torch.tensor([*teacher.prompt('en'), *teacher.text_tokens(t), teacher.eot])+1 for t in c.df.text])[0]-1
    model.set_hyperparam('quantized', 0)
    out = model(feats, mask, dict(teacher=(tokens,)))
    out.loss.backward()
    assert out.losses['kl'] < 0.1 and out.losses['accuracy'] > 0.6
    assert not any(p.grad is not None for p in teacher.parameters()) and all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.no_grad():
        clean,more = model(feats, mask, dict(teacher=(tokens,))),torch.nn.functional.pad
        dirty = model(more(feats, (0,0,0,30), value=1e3).masked_fill(~more(mask, (0,30))[...,None], -1e3), more(mask, (0,30)), dict(teacher=(more(tokens, (0,5), value=-1),)))
        alone = [model(f[None,m], m[None,m], dict(teacher=(t[None,t >= 0],))) for f,m,t in zip(feats, mask, tokens)]
    n = (tokens[:,len(teacher.prompt('en')):] >= 0).sum(1).tolist()
    for k in ('kl','ce'):
        assert abs(dirty.losses[k]-clean.losses[k]) < 1e-5
        assert abs(sum(o.losses[k]*w for o,w in zip(alone, n))/sum(n)-clean.losses[k]) < 1e-4
    assert torch.equal(model.encode(feats[:1,mask[0]]), clean.codes[:1,:(mask[0].sum()+1)//2])
